# The CUDA engine: found, demanded or left out as FASTSPADE_CUDA says (see CMakeLists.txt).
if(FASTSPADE_CUDA STREQUAL "OFF")
  return()
endif()

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(FASTSPADE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FASTSPADE_CUDA=ON, but no CUDA compiler was found: put nvcc on the PATH or set CUDACXX, "
                        "or use FASTSPADE_CUDA=AUTO or OFF for a CPU-only build")
  endif()
  message(STATUS "fastspade: no CUDA compiler found, building the CPU engine alone")
  return()
endif()

# Machine code for every architecture that runs the kernels natively; newer devices compile the last one's PTX at first use.
# 90a is the search with Hopper's own instructions, a file of its own that other devices cannot run.
if(NOT FASTSPADE_CUDA_ARCHITECTURES)
  set(FASTSPADE_CUDA_ARCHITECTURES "80-real;86-real;89-real;90;90a-real")
endif()
set(FASTSPADE_CUDA_PORTABLE ${FASTSPADE_CUDA_ARCHITECTURES})
list(FILTER FASTSPADE_CUDA_PORTABLE EXCLUDE REGEX "^90a")
if(FASTSPADE_CUDA_PORTABLE STREQUAL "")
  set(FASTSPADE_CUDA_PORTABLE ${FASTSPADE_CUDA_ARCHITECTURES})  # 90a alone: everything for it
endif()
set(CMAKE_CUDA_ARCHITECTURES ${FASTSPADE_CUDA_PORTABLE})
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)  # nothing to clash with the runtime that torch brings
enable_language(CUDA)

add_library(fastspade_cuda STATIC csrc/cuda/engine.cu csrc/cuda/plan.cpp csrc/cuda/plan_sm90.cpp)
target_include_directories(fastspade_cuda PUBLIC csrc)
# The language standard is spelt out: older CMakes do not know that newer CUDA compilers take C++20.
set_property(TARGET fastspade_cuda PROPERTY CXX_STANDARD)
target_compile_options(fastspade_cuda PRIVATE -std=c++20 $<$<COMPILE_LANGUAGE:CUDA>:-O3>)
if(FASTSPADE_CUDA_ARCHITECTURES MATCHES "90a")
  add_library(fastspade_cuda_sm90 STATIC csrc/cuda/engine_sm90.cu)
  target_include_directories(fastspade_cuda_sm90 PRIVATE csrc)
  set_property(TARGET fastspade_cuda_sm90 PROPERTY CXX_STANDARD)
  set_property(TARGET fastspade_cuda_sm90 PROPERTY CUDA_ARCHITECTURES 90a-real)
  target_compile_options(fastspade_cuda_sm90 PRIVATE -std=c++20 -O3)
  target_compile_definitions(fastspade_cuda PRIVATE FASTSPADE_WITH_SM90A)
  target_link_libraries(fastspade_cuda PRIVATE fastspade_cuda_sm90)
endif()
target_sources(_engine PRIVATE csrc/bindings/cuda.cpp)
target_link_libraries(_engine PRIVATE fastspade_cuda)
target_compile_definitions(_engine PRIVATE FASTSPADE_WITH_CUDA)
string(REPLACE ";" " " FASTSPADE_CUDA_ARCHITECTURES_BUILT "${FASTSPADE_CUDA_ARCHITECTURES}")
