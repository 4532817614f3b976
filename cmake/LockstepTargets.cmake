# How a room, a module and a test are declared. Each room has its own CMakeLists.txt, so that two people
# who work in two rooms never edit one list.

# lockstep_add_room(<module> <room> SOURCES a.cc b.cc [LINK target...])
#   Compiles the sources beside the calling CMakeLists.txt into the object library lockstep_<module>_<room>.
#   A room sees its module's public headers, those of the modules below (by LINK) and its own folder.
function(lockstep_add_room module room)
  cmake_parse_arguments(arg "" "" "SOURCES;LINK" ${ARGN})
  set(target lockstep_${module}_${room})
  add_library(${target} OBJECT ${arg_SOURCES})
  target_link_libraries(${target} PRIVATE lockstep_options ${arg_LINK})
  target_include_directories(${target} PRIVATE
    ${PROJECT_SOURCE_DIR}/${module}/include ${PROJECT_SOURCE_DIR}/core/include ${CMAKE_CURRENT_SOURCE_DIR})
  set_property(GLOBAL APPEND PROPERTY LOCKSTEP_ROOMS_${module} ${target})
endfunction()

# lockstep_optimise_kernels(<source>...)
#   Compiles arithmetic loops of the calling folder so that the compiler vectorises them (sqrt too, hence no
#   errno). Neither option lets it change a result.
function(lockstep_optimise_kernels)
  set_property(SOURCE ${ARGN} APPEND PROPERTY COMPILE_OPTIONS
    $<$<NOT:$<CONFIG:Debug>>:-O3> -fno-math-errno)
endfunction()

# lockstep_add_module(<module> PUBLIC target... PRIVATE target... HEADERS file...)
#   One static library of all the module's rooms: lockstep_<module>, alias lockstep::<module>.
function(lockstep_add_module module)
  cmake_parse_arguments(arg "" "" "PUBLIC;PRIVATE" ${ARGN})
  get_property(rooms GLOBAL PROPERTY LOCKSTEP_ROOMS_${module})
  set(target lockstep_${module})
  add_library(${target} STATIC)
  foreach(room IN LISTS rooms)
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${room}>)
  endforeach()
  add_library(lockstep::${module} ALIAS ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${module} LINKER_LANGUAGE CXX)
  target_include_directories(${target} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/${module}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_link_libraries(${target} PUBLIC ${arg_PUBLIC} PRIVATE $<BUILD_INTERFACE:lockstep_options> ${arg_PRIVATE})
  set_property(GLOBAL APPEND PROPERTY LOCKSTEP_MODULES ${module})
endfunction()

# lockstep_add_test(NAME <module>.<room> SOURCES x_test.cc... LINK lockstep::module...
#                   [LABEL unit|ranks|mpi|crash] [RANKS n...] [TIMEOUT s] [PRIVATE_OF module/src/room])
#   Builds one GoogleTest program from the sources beside the calling CMakeLists.txt and registers it: once as
#   it is, or with RANKS once for each n under mpirun (the program must then have its own main that joins MPI).
function(lockstep_add_test)
  cmake_parse_arguments(arg "" "NAME;LABEL;TIMEOUT" "SOURCES;LINK;RANKS;PRIVATE_OF;ENV" ${ARGN})
  if(NOT arg_LABEL)
    set(arg_LABEL unit)
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 600)
  endif()
  string(REPLACE "." "_" target ${arg_NAME}_test)
  add_executable(${target} ${arg_SOURCES})
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests
    UNITY_BUILD ${LOCKSTEP_UNITY} UNITY_BUILD_BATCH_SIZE 0)
  target_link_libraries(${target} PRIVATE lockstep_options ${arg_LINK} GTest::gmock)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  foreach(room IN LISTS arg_PRIVATE_OF)
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/${room})
  endforeach()
  set(env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1 ${arg_ENV}
    LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/lsan.supp:print_suppressions=0)
  if(arg_RANKS)
    foreach(n IN LISTS arg_RANKS)
      add_test(NAME ${arg_NAME}.np${n} COMMAND ${MPIEXEC_EXECUTABLE} -n ${n} --oversubscribe
               --mca mpi_yield_when_idle 1 $<TARGET_FILE:${target}>)
      set_tests_properties(${arg_NAME}.np${n} PROPERTIES LABELS ${arg_LABEL} TIMEOUT ${arg_TIMEOUT}
                           PROCESSORS 2 ENVIRONMENT "${env}")
    endforeach()
  else()
    target_link_libraries(${target} PRIVATE GTest::gmock_main)
    add_test(NAME ${arg_NAME} COMMAND ${target})
    set_tests_properties(${arg_NAME} PROPERTIES LABELS ${arg_LABEL} TIMEOUT ${arg_TIMEOUT} ENVIRONMENT "${env}")
  endif()
endfunction()
