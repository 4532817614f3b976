# Installs the modules, their public headers, the program with its recipes and scripts, and the package
# configuration. find_package(lockstep) then gives lockstep::core, ::distributed, ::checkpoint and ::launch, and
# lockstep::lockstep for all of them. The installed tree can be moved.
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/lockstep)

get_property(modules GLOBAL PROPERTY LOCKSTEP_MODULES)
foreach(module IN LISTS modules)
  install(TARGETS lockstep_${module} EXPORT lockstep-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/${module}/include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
          FILES_MATCHING PATTERN "*.h")
endforeach()
install(EXPORT lockstep-targets NAMESPACE lockstep:: DESTINATION ${package_dir})

if(TARGET lockstep)
  # LibTorch stays where it is: the installed program looks for it there.
  set_target_properties(lockstep PROPERTIES INSTALL_RPATH ${LOCKSTEP_TORCH_ROOT}/lib)
  install(TARGETS lockstep RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
if(TARGET lockstep_cuda)
  install(TARGETS lockstep_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/launch/recipes ${PROJECT_SOURCE_DIR}/launch/slurm
        DESTINATION ${CMAKE_INSTALL_DATADIR}/lockstep USE_SOURCE_PERMISSIONS)
install(PROGRAMS ${PROJECT_SOURCE_DIR}/launch/mpirun.sh DESTINATION ${CMAKE_INSTALL_DATADIR}/lockstep)
# Slurm runs a copy of train.sbatch from a folder of its own, so it can not look beside itself: the installed one names
# where things are. A tree that was moved needs LOCKSTEP=... and LOCKSTEP_MPIRUN_SCRIPT=... in the environment.
install(CODE "set(share \${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_DATADIR}/lockstep)
set(bin \${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_BINDIR})")
install(CODE [[
  set(template $ENV{DESTDIR}${share}/slurm/train.sbatch)
  file(READ "${template}" text)
  foreach(places "$home/build/release/bin/lockstep;${bin}/lockstep" "$home/launch/mpirun.sh;${share}/mpirun.sh")
    list(GET places 0 from)
    list(GET places 1 to)
    string(FIND "${text}" "${from}" at)
    if(at EQUAL -1)
      message(FATAL_ERROR "launch/slurm/train.sbatch does not name ${from}, which the installed one replaces by ${to}")
    endif()
    string(REPLACE "${from}" "${to}" text "${text}")
  endforeach()
  file(WRITE "${template}" "${text}")
]])

list(TRANSFORM modules PREPEND lockstep:: OUTPUT_VARIABLE LOCKSTEP_EXPORTED_TARGETS)
list(JOIN LOCKSTEP_EXPORTED_TARGETS " " LOCKSTEP_EXPORTED_TARGETS)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/lockstep-config.cmake.in
  ${PROJECT_BINARY_DIR}/lockstep-config.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/lockstep-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/lockstep-config.cmake ${PROJECT_BINARY_DIR}/lockstep-config-version.cmake
              ${PROJECT_SOURCE_DIR}/cmake/LockstepTorch.cmake ${PROJECT_SOURCE_DIR}/cmake/LockstepPlainLibraries.cmake
        DESTINATION ${package_dir})
