# Installs the build, moves what was installed, and builds the consumer project against it there.
#   cmake -DBUILD=... -DPROJECT=... -DWORK=... -DCOMPILER=... -DLAUNCHER=... -P build_consumer.cmake
function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ECHO STDOUT RESULT_VARIABLE rc)
  if(NOT rc EQUAL 0)
    message(FATAL_ERROR "failed (${rc}): ${ARGN}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK}/installed ${WORK}/moved)
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/installed)
# A package that names the folder where it was installed first would be found out here.
file(RENAME ${WORK}/installed ${WORK}/moved)
# Through the environment, because the launcher is a list.
set(ENV{CMAKE_CXX_COMPILER_LAUNCHER} "${LAUNCHER}")
run(${CMAKE_COMMAND} -S ${PROJECT} -B ${WORK}/build -G Ninja -DCMAKE_BUILD_TYPE=Release
    -DCMAKE_PREFIX_PATH=${WORK}/moved -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_CXX_FLAGS=${FLAGS})
run(${CMAKE_COMMAND} --build ${WORK}/build)
