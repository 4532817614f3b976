# Finds xxHash, which has no package file of its own in Debian, as the imported target `lockstep_xxhash`.
if(NOT TARGET lockstep_xxhash)
  find_library(LOCKSTEP_XXHASH_FILE xxhash REQUIRED)
  find_path(LOCKSTEP_XXHASH_INCLUDE_DIR xxhash.h REQUIRED)
  add_library(lockstep_xxhash UNKNOWN IMPORTED GLOBAL)
  set_target_properties(lockstep_xxhash PROPERTIES
    IMPORTED_LOCATION ${LOCKSTEP_XXHASH_FILE} INTERFACE_INCLUDE_DIRECTORIES ${LOCKSTEP_XXHASH_INCLUDE_DIR})
endif()
set(LOCKSTEP_XXHASH_LIBRARY lockstep_xxhash)
