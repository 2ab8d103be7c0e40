# The CUDA engine: found, demanded or left out as FASTSPADE_CUDA says (see CMakeLists.txt).
if(FASTSPADE_CUDA STREQUAL "OFF")
  return()
endif()

# Ends this file with the CPU engine alone, or configuring where CUDA was demanded.
macro(fastspade_without_cuda reason way_out)
  if(FASTSPADE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FASTSPADE_CUDA=ON, but ${reason}: ${way_out}, or use FASTSPADE_CUDA=AUTO or OFF for a CPU-only build")
  endif()
  message(STATUS "fastspade: ${reason}: building the CPU engine alone (for the CUDA engine, ${way_out})")
  return()
endmacro()

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  set(FASTSPADE_NVCC "$ENV{CUDACXX}")
  if(NOT FASTSPADE_NVCC)
    find_program(FASTSPADE_NVCC nvcc)
  endif()
  if(FASTSPADE_NVCC)
    fastspade_without_cuda("${FASTSPADE_NVCC} cannot compile a small program with this host compiler"
                           "set CUDACXX and CUDAHOSTCXX to compilers that fit each other")
  endif()
  fastspade_without_cuda("no CUDA compiler was found" "put nvcc on the PATH or set CUDACXX")
endif()

include(${CMAKE_CURRENT_LIST_DIR}/cuda_architectures.cmake)
fastspade_ask_nvcc("${CMAKE_CUDA_COMPILER}" FASTSPADE_NVCC_VERSION FASTSPADE_NVCC_KNOWN)
fastspade_visible_gpus(FASTSPADE_VISIBLE_GPUS)
fastspade_choose_architectures("${FASTSPADE_CUDA_ARCHITECTURES}" "${FASTSPADE_NVCC_VERSION}" "${FASTSPADE_NVCC_KNOWN}"
                               "${FASTSPADE_VISIBLE_GPUS}")
if(FASTSPADE_CUDA_PROBLEM AND FASTSPADE_CUDA_ARCHITECTURES)  # asked for by name
  message(FATAL_ERROR "${FASTSPADE_CUDA_PROBLEM}")
elseif(FASTSPADE_CUDA_PROBLEM)
  fastspade_without_cuda("${FASTSPADE_CUDA_PROBLEM}" "install a newer CUDA toolkit")
endif()
set(CMAKE_CUDA_ARCHITECTURES ${FASTSPADE_CUDA_PORTABLE})
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)  # nothing to clash with the runtime that torch brings
enable_language(CUDA)

# CUDA 11 knows no C++20. The standard is spelt out: older CMakes do not know what newer CUDA compilers take.
set(FASTSPADE_CUDA_FLAGS -std=c++17 -O3)
if(FASTSPADE_NVCC_VERSION VERSION_GREATER_EQUAL 11.2)
  list(APPEND FASTSPADE_CUDA_FLAGS --threads=0)  # the architectures of a file in parallel, on every processor
endif()

# A toolkit that compiles CMake's small program may still not get through the host compiler's library.
try_compile(FASTSPADE_CUDA_COMPILES ${CMAKE_BINARY_DIR}/probe SOURCES ${CMAKE_CURRENT_LIST_DIR}/probe.cu
  COMPILE_DEFINITIONS ${FASTSPADE_CUDA_FLAGS} OUTPUT_VARIABLE FASTSPADE_CUDA_PROBE)
if(NOT FASTSPADE_CUDA_COMPILES)
  message(STATUS "${FASTSPADE_CUDA_PROBE}")
  fastspade_without_cuda("${CMAKE_CUDA_COMPILER} ${FASTSPADE_NVCC_VERSION} cannot compile with this host compiler's library"
                         "set CUDACXX and CUDAHOSTCXX to compilers that fit each other")
endif()

add_library(fastspade_cuda STATIC csrc/cuda/engine.cu csrc/cuda/plan.cpp csrc/cuda/plan_sm90.cpp)
target_include_directories(fastspade_cuda PUBLIC csrc)
if(FASTSPADE_CUDA_SM90A)
  # A file of its own, which other devices cannot run.
  add_library(fastspade_cuda_sm90 STATIC csrc/cuda/engine_sm90.cu)
  target_include_directories(fastspade_cuda_sm90 PRIVATE csrc)
  set_property(TARGET fastspade_cuda_sm90 PROPERTY CUDA_ARCHITECTURES 90a-real)
  target_compile_definitions(fastspade_cuda PRIVATE FASTSPADE_WITH_SM90A)
  target_link_libraries(fastspade_cuda PRIVATE fastspade_cuda_sm90)
endif()
foreach(target fastspade_cuda fastspade_cuda_sm90)
  if(TARGET ${target})
    set_property(TARGET ${target} PROPERTY CXX_STANDARD)
    target_compile_options(${target} PRIVATE "$<IF:$<COMPILE_LANGUAGE:CUDA>,${FASTSPADE_CUDA_FLAGS},-std=c++20;-ffp-contract=off>")
  endif()
endforeach()
target_sources(_engine PRIVATE csrc/bindings/cuda.cpp)
target_link_libraries(_engine PRIVATE fastspade_cuda)
target_compile_definitions(_engine PRIVATE FASTSPADE_WITH_CUDA)
set(FASTSPADE_CUDA_ARCHITECTURES_BUILT ${FASTSPADE_CUDA_PORTABLE})
if(FASTSPADE_CUDA_SM90A)
  list(APPEND FASTSPADE_CUDA_ARCHITECTURES_BUILT 90a-real)
endif()
list(JOIN FASTSPADE_CUDA_ARCHITECTURES_BUILT " " FASTSPADE_CUDA_ARCHITECTURES_BUILT)
message(STATUS "fastspade: nvcc ${FASTSPADE_NVCC_VERSION} compiles the CUDA engine for ${FASTSPADE_CUDA_ARCHITECTURES_BUILT} in "
               "parallel (FASTSPADE_CUDA_ARCHITECTURES chooses others)${FASTSPADE_CUDA_NOTE}")
