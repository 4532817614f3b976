# Libraries without a CMake package file in Debian, as the imported targets `lockstep_xxhash` and `lockstep_uring`.
foreach(item IN ITEMS "xxhash;xxhash.h" "uring;liburing.h")
  list(GET item 0 name)
  list(GET item 1 header)
  if(NOT TARGET lockstep_${name})
    string(TOUPPER ${name} upper)
    find_library(LOCKSTEP_${upper}_FILE ${name} REQUIRED)
    find_path(LOCKSTEP_${upper}_INCLUDE_DIR ${header} REQUIRED)
    add_library(lockstep_${name} UNKNOWN IMPORTED GLOBAL)
    set_target_properties(lockstep_${name} PROPERTIES
      IMPORTED_LOCATION ${LOCKSTEP_${upper}_FILE} INTERFACE_INCLUDE_DIRECTORIES ${LOCKSTEP_${upper}_INCLUDE_DIR})
  endif()
endforeach()
set(LOCKSTEP_PLAIN_LIBRARIES lockstep_xxhash lockstep_uring)
