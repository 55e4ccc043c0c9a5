# Flags and folders of longspan's own tests, benchmarks and examples. Users of the library never read this file.

include(CheckCXXCompilerFlag)
set(LONGSPAN_MARCH "native" CACHE STRING "-march of tests, benchmarks and examples; empty: the compiler's default")
set(LONGSPAN_TEST_SUBSET "all" CACHE STRING "all, or small: no slow tests, no variants, no benchmarks, no examples")
option(LONGSPAN_SANITIZE "Address and undefined-behaviour sanitizers" OFF)
option(LONGSPAN_SANITIZE_THREADS "The thread sanitizer, for kv/concurrent_test" OFF)

get_property(multi_config GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
if(NOT CMAKE_BUILD_TYPE AND NOT multi_config)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)  # -O3
endif()
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

add_library(longspan_dev INTERFACE)
target_compile_options(longspan_dev INTERFACE
  -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror
  # clang's -Wconversion contains it, g++'s does not: one rule for both
  $<$<CXX_COMPILER_ID:Clang,AppleClang>:-Wno-sign-conversion>
  # g++ 12 warns of "x" + std::string at -O3 (its bug 105651)
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)

# A target may ask for another instruction set by its property LONGSPAN_MARCH: a second -march would depend on order.
check_cxx_compiler_flag("-march=native" LONGSPAN_HAS_MARCH_NATIVE)
if(LONGSPAN_MARCH STREQUAL "native" AND NOT LONGSPAN_HAS_MARCH_NATIVE)
  set(default_march "-mcpu=native")  # clang on ARM
elseif(LONGSPAN_MARCH)
  set(default_march "-march=${LONGSPAN_MARCH}")
endif()
set(own_march "$<TARGET_PROPERTY:LONGSPAN_MARCH>")
target_compile_options(longspan_dev INTERFACE "$<IF:$<BOOL:${own_march}>,-march=${own_march},${default_march}>")

if(LONGSPAN_SANITIZE)
  set(sanitize -fsanitize=address,undefined -fno-sanitize-recover=all)
  # Checks of unrolled code take g++ minutes a file and gigabytes: hence small register tiles, and no optimisation (which
  # comes after the build type's own). Instrumented code makes g++ see uninitialized reads that are none.
  target_compile_options(longspan_dev INTERFACE -O0 -g1 -fno-omit-frame-pointer ${sanitize} -DLONGSPAN_SMALL_TILES
                                                $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  target_link_options(longspan_dev INTERFACE ${sanitize})
endif()

if(LONGSPAN_SANITIZE_THREADS)
  target_compile_options(longspan_dev INTERFACE -O1 -g1 -fsanitize=thread $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  target_link_options(longspan_dev INTERFACE -fsanitize=thread)
endif()

enable_testing()
add_subdirectory(tests)
if(NOT LONGSPAN_TEST_SUBSET STREQUAL "small")
  add_subdirectory(bench)
  add_subdirectory(examples)
endif()
