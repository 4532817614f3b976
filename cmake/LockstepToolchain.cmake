# Compiler-wide settings as one interface target, so that nothing edits global flags.
#   lockstep_options: warnings, rounding behaviour, sanitizers, linker

find_program(LOCKSTEP_CCACHE ccache)
if(LOCKSTEP_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # hash_dir off and a base directory: two clones share their results; so do shells of two languages.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_NOHASHDIR=1
      CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_SLOPPINESS=time_macros,include_file_mtime,locale CCACHE_MAXSIZE=10G
      ${LOCKSTEP_CCACHE})
endif()

add_library(lockstep_options INTERFACE)
target_compile_options(lockstep_options INTERFACE
  -Wall -Wextra -Wno-unused-parameter -Werror=unused-result -Werror=return-type -fno-omit-frame-pointer
  # One rounding behaviour everywhere: a fused multiply-add in the vector body and none in the tail
  # would make a number depend on where a shard is cut.
  -ffp-contract=off
  $<$<BOOL:${LOCKSTEP_WERROR}>:-Werror>
  $<$<CONFIG:RelWithDebInfo>:-g1>)
target_compile_definitions(lockstep_options INTERFACE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)

find_program(LOCKSTEP_MOLD mold)
if(LOCKSTEP_MOLD)
  target_link_options(lockstep_options INTERFACE -fuse-ld=mold)
endif()
target_link_options(lockstep_options INTERFACE -Wl,--as-needed)

if(LOCKSTEP_SANITIZE)
  target_compile_options(lockstep_options INTERFACE -fsanitize=${LOCKSTEP_SANITIZE} -fno-sanitize-recover=undefined)
  target_link_options(lockstep_options INTERFACE -fsanitize=${LOCKSTEP_SANITIZE})
  if(LOCKSTEP_SANITIZE MATCHES "thread")
    # asio has fences, of which ThreadSanitizer knows nothing; it may then see races where there are none.
    target_compile_options(lockstep_options INTERFACE -Wno-tsan)
  endif()
endif()
