# Finds LibTorch's CPU libraries and defines the imported target `lockstep_torch`.
#
# Looked for, in this order: LOCKSTEP_TORCH_DIR (the folder that holds include/ and lib/), the environment's
# LOCKSTEP_DEPS_DIR, the project's own .deps/, CMAKE_PREFIX_PATH, and the python3 on PATH. find_package(Torch)
# is not used, because torch's own CMake files want a CUDA toolkit at configure time even for a program that only
# computes on the CPU.

set(LOCKSTEP_TORCH_DIR "" CACHE PATH "LibTorch: the folder that holds include/torch and lib/libtorch_cpu.so")

if(NOT TARGET lockstep_torch)
  set(_lockstep_torch_candidates "")
  foreach(_deps $ENV{LOCKSTEP_DEPS_DIR} ${PROJECT_SOURCE_DIR}/.deps)
    file(GLOB _found ${_deps}/venv/lib/python3*/site-packages/torch)
    list(APPEND _lockstep_torch_candidates ${_found})
  endforeach()
  foreach(_prefix IN LISTS CMAKE_PREFIX_PATH)
    list(APPEND _lockstep_torch_candidates ${_prefix} ${_prefix}/torch)
  endforeach()
  if(LOCKSTEP_TORCH_DIR)
    set(_lockstep_torch_candidates ${LOCKSTEP_TORCH_DIR})
  endif()
  set(_lockstep_torch_root "")
  foreach(_candidate IN LISTS _lockstep_torch_candidates)
    if(EXISTS ${_candidate}/lib/libtorch_cpu.so AND EXISTS ${_candidate}/include/ATen/core/Tensor.h)
      set(_lockstep_torch_root ${_candidate})
      break()
    endif()
  endforeach()
  if(NOT _lockstep_torch_root AND NOT LOCKSTEP_TORCH_DIR)
    execute_process(COMMAND python3 -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
                    OUTPUT_VARIABLE _candidate OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE _rc)
    if(_rc EQUAL 0 AND EXISTS ${_candidate}/lib/libtorch_cpu.so)
      set(_lockstep_torch_root ${_candidate})
    endif()
  endif()
  if(NOT _lockstep_torch_root)
    message(FATAL_ERROR "LibTorch 2.11 not found (looked in: ${_lockstep_torch_candidates}; python3's torch). "
      "Run launch/setup.sh, or set LOCKSTEP_TORCH_DIR to the folder that holds lib/libtorch_cpu.so.")
  endif()

  if(EXISTS ${_lockstep_torch_root}/version.py)
    file(STRINGS ${_lockstep_torch_root}/version.py _line REGEX "^__version__")
    string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" LOCKSTEP_TORCH_VERSION "${_line}")
  else()
    set(LOCKSTEP_TORCH_VERSION "unknown")
  endif()
  set(LOCKSTEP_TORCH_ROOT ${_lockstep_torch_root})
  message(STATUS "LibTorch ${LOCKSTEP_TORCH_VERSION}: ${_lockstep_torch_root}")

  add_library(lockstep_torch_cpu SHARED IMPORTED GLOBAL)
  set_target_properties(lockstep_torch_cpu PROPERTIES
    IMPORTED_LOCATION ${_lockstep_torch_root}/lib/libtorch_cpu.so)
  add_library(lockstep_torch_c10 SHARED IMPORTED GLOBAL)
  set_target_properties(lockstep_torch_c10 PROPERTIES IMPORTED_LOCATION ${_lockstep_torch_root}/lib/libc10.so)
  add_library(lockstep_torch INTERFACE IMPORTED GLOBAL)
  target_include_directories(lockstep_torch SYSTEM INTERFACE
    ${_lockstep_torch_root}/include ${_lockstep_torch_root}/include/torch/csrc/api/include)
  target_link_libraries(lockstep_torch INTERFACE lockstep_torch_cpu lockstep_torch_c10)
  # The wheel's CUDA runtime libraries are found through libtorch_cpu's own RPATH at run time; the linker
  # need not look for them.
  target_link_options(lockstep_torch INTERFACE -Wl,--allow-shlib-undefined)
endif()
