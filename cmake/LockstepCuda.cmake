# Finds what the library for GPUs is built with, and defines `lockstep_cuda_toolkit` (CUDA runtime, NCCL and
# LibTorch's CUDA side, as headers and shared libraries) and LOCKSTEP_NVCC. Without it everything else is built and
# works; LOCKSTEP_CUDA=ON makes its absence an error, OFF leaves the library out.
#
# Looked for: the Python packages beside LibTorch (nvidia/cu13, nvidia/nccl), which launch/setup.sh installs, so that
# the runtime and NCCL are those that LibTorch itself loads; for nvcc then PATH and /usr/local/cuda.

set(LOCKSTEP_CUDA AUTO CACHE STRING "Build the library for GPUs: AUTO, ON or OFF")
set_property(CACHE LOCKSTEP_CUDA PROPERTY STRINGS AUTO ON OFF)
set(LOCKSTEP_CUDA_ARCHITECTURES 80 90 CACHE STRING "GPUs to compile for; PTX of the last serves later ones")

set(LOCKSTEP_HAS_CUDA OFF)
if(NOT LOCKSTEP_CUDA STREQUAL OFF)
  get_filename_component(_packages ${LOCKSTEP_TORCH_ROOT} DIRECTORY)
  find_program(LOCKSTEP_NVCC nvcc HINTS ${_packages}/nvidia/cu13/bin NO_DEFAULT_PATH)
  find_program(LOCKSTEP_NVCC nvcc HINTS /usr/local/cuda/bin)
  find_path(LOCKSTEP_CUDART_INCLUDE cuda_runtime_api.h HINTS ${_packages}/nvidia/cu13/include /usr/local/cuda/include)
  find_file(LOCKSTEP_CUDART_FILE NAMES libcudart.so.13 libcudart.so
            HINTS ${_packages}/nvidia/cu13/lib /usr/local/cuda/lib64)
  find_path(LOCKSTEP_NCCL_INCLUDE nccl.h HINTS ${_packages}/nvidia/nccl/include /usr/local/cuda/include)
  find_file(LOCKSTEP_NCCL_FILE NAMES libnccl.so.2 HINTS ${_packages}/nvidia/nccl/lib /usr/local/cuda/lib64)
  find_file(LOCKSTEP_TORCH_CUDA_FILE NAMES libtorch_cuda.so HINTS ${LOCKSTEP_TORCH_ROOT}/lib NO_DEFAULT_PATH)
  set(_missing "")
  foreach(_part NVCC CUDART_INCLUDE CUDART_FILE NCCL_INCLUDE NCCL_FILE TORCH_CUDA_FILE)
    mark_as_advanced(LOCKSTEP_${_part})
    if(NOT LOCKSTEP_${_part})
      list(APPEND _missing ${_part})
    endif()
  endforeach()
  if(NOT _missing)
    set(LOCKSTEP_HAS_CUDA ON)
  elseif(LOCKSTEP_CUDA STREQUAL ON)
    list(JOIN _missing ", " _missing)
    message(FATAL_ERROR "The library for GPUs can't be built, not found: ${_missing}. launch/setup.sh installs them.")
  endif()
endif()

if(LOCKSTEP_HAS_CUDA)
  message(STATUS "Library for GPUs: ${LOCKSTEP_NVCC}, sm_${LOCKSTEP_CUDA_ARCHITECTURES}")
  add_library(lockstep_cuda_toolkit INTERFACE)
  target_include_directories(lockstep_cuda_toolkit SYSTEM INTERFACE
    ${LOCKSTEP_CUDART_INCLUDE} ${LOCKSTEP_NCCL_INCLUDE})
  # LibTorch's CUDA side registers itself when it is loaded; nothing names a symbol of it. The folders are where its
  # own libraries are, so that there is one NCCL and one CUDA runtime in the process.
  get_filename_component(_cudart_dir ${LOCKSTEP_CUDART_FILE} DIRECTORY)
  get_filename_component(_nccl_dir ${LOCKSTEP_NCCL_FILE} DIRECTORY)
  set(LOCKSTEP_CUDA_RPATH ${LOCKSTEP_TORCH_ROOT}/lib ${_cudart_dir} ${_nccl_dir})
  target_link_libraries(lockstep_cuda_toolkit INTERFACE
    -Wl,--no-as-needed ${LOCKSTEP_TORCH_CUDA_FILE} -Wl,--as-needed
    ${LOCKSTEP_TORCH_ROOT}/lib/libc10_cuda.so ${LOCKSTEP_CUDART_FILE} ${LOCKSTEP_NCCL_FILE})
else()
  message(STATUS "Library for GPUs: not built")
endif()

# lockstep_compile_kernels(<target> <file.cu>)
#   Compiles CUDA kernels into an object of the target. No contraction: the bits are those of the host.
function(lockstep_compile_kernels target source)
  get_filename_component(name ${source} NAME)
  set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}.o)
  set(code "")
  foreach(arch IN LISTS LOCKSTEP_CUDA_ARCHITECTURES)
    list(APPEND code -gencode=arch=compute_${arch},code=sm_${arch})
    set(last ${arch})
  endforeach()
  add_custom_command(OUTPUT ${object}
    COMMAND ${LOCKSTEP_NVCC} -std=c++20 -O3 -fmad=false ${code} -gencode=arch=compute_${last},code=compute_${last}
            -ccbin ${CMAKE_CXX_COMPILER} -Xcompiler -fPIC,-Wall,-Wextra,-fvisibility=hidden
            -I${PROJECT_SOURCE_DIR}/core/include -I${CMAKE_CURRENT_SOURCE_DIR} -I${LOCKSTEP_CUDART_INCLUDE}
            -MD -MF ${object}.d -c ${CMAKE_CURRENT_SOURCE_DIR}/${source} -o ${object}
    DEPENDS ${source} DEPFILE ${object}.d COMMENT "Compiling kernels ${name}" VERBATIM)
  target_sources(${target} PRIVATE ${object})
endfunction()
