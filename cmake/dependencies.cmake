# What longspan's headers include. Read by this build and, installed beside it, by longspanConfig.cmake.

macro(longspan_depend)
  if(CMAKE_FIND_PACKAGE_NAME STREQUAL "longspan")
    include(CMakeFindDependencyMacro)
    find_dependency(${ARGN})
  else()
    find_package(${ARGN} REQUIRED)
  endif()
endmacro()

longspan_depend(Threads)
longspan_depend(Eigen3 3.3 NO_MODULE)

# Only xsimd's include directory is used: its target is `xsimd` or `xsimd::xsimd` by version, and Debian's links a
# library `xtl` that does not exist (header-only too, and not needed here).
if(NOT TARGET longspan::xsimd)
  find_package(xsimd CONFIG QUIET)
  set(longspan_xsimd_include "")
  foreach(name xsimd::xsimd xsimd)
    if(TARGET ${name} AND NOT longspan_xsimd_include)
      get_target_property(longspan_xsimd_include ${name} INTERFACE_INCLUDE_DIRECTORIES)
    endif()
  endforeach()
  if(NOT longspan_xsimd_include)
    find_path(LONGSPAN_XSIMD_INCLUDE_DIR xsimd/xsimd.hpp)
    set(longspan_xsimd_include "${LONGSPAN_XSIMD_INCLUDE_DIR}")
  endif()
  if(longspan_xsimd_include)
    # GLOBAL: a parent project that links longspan::longspan sees it too.
    add_library(longspan::xsimd INTERFACE IMPORTED GLOBAL)
    set_target_properties(longspan::xsimd PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${longspan_xsimd_include}")
  elseif(CMAKE_FIND_PACKAGE_NAME STREQUAL "longspan")
    set(longspan_FOUND FALSE)
    set(longspan_NOT_FOUND_MESSAGE "longspan needs xsimd (xsimd/xsimd.hpp), e.g. Debian's libxsimd-dev")
  else()
    message(FATAL_ERROR "longspan needs xsimd (xsimd/xsimd.hpp), e.g. Debian's libxsimd-dev")
  endif()
endif()

# Only for kv/snapshot.hpp: without it there is no target longspan::xxhash.
if(NOT TARGET longspan::xxhash)
  find_path(LONGSPAN_XXHASH_INCLUDE_DIR xxhash.h)
  find_library(LONGSPAN_XXHASH_LIBRARY xxhash)
  mark_as_advanced(LONGSPAN_XXHASH_INCLUDE_DIR LONGSPAN_XXHASH_LIBRARY)
  if(LONGSPAN_XXHASH_INCLUDE_DIR AND LONGSPAN_XXHASH_LIBRARY)
    add_library(longspan::xxhash INTERFACE IMPORTED GLOBAL)
    set_target_properties(longspan::xxhash PROPERTIES
      INTERFACE_INCLUDE_DIRECTORIES "${LONGSPAN_XXHASH_INCLUDE_DIR}"
      INTERFACE_LINK_LIBRARIES "${LONGSPAN_XXHASH_LIBRARY}")
  endif()
endif()
