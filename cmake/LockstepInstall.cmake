# Installs the modules, their public headers, the program and the package configuration:
# find_package(lockstep) then gives lockstep::core, ::distributed, ::checkpoint, ::launch and lockstep::lockstep.
include(CMakePackageConfigHelpers)
get_property(modules GLOBAL PROPERTY LOCKSTEP_MODULES)
foreach(module IN LISTS modules)
  install(TARGETS lockstep_${module} EXPORT lockstep-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/${module}/include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
          FILES_MATCHING PATTERN "*.h")
endforeach()
install(EXPORT lockstep-targets NAMESPACE lockstep:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/lockstep)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/lockstep-config.cmake.in
  ${PROJECT_BINARY_DIR}/lockstep-config.cmake INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/lockstep)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/lockstep-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/lockstep-config.cmake ${PROJECT_BINARY_DIR}/lockstep-config-version.cmake
              ${PROJECT_SOURCE_DIR}/cmake/LockstepTorch.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/lockstep)
