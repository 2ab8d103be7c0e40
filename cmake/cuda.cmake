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
if(NOT FASTSPADE_CUDA_ARCHITECTURES)
  set(FASTSPADE_CUDA_ARCHITECTURES "80-real;86-real;89-real;90")
endif()
set(CMAKE_CUDA_ARCHITECTURES ${FASTSPADE_CUDA_ARCHITECTURES})
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)  # nothing to clash with the runtime that torch brings
enable_language(CUDA)

add_library(fastspade_cuda STATIC csrc/cuda/engine.cu csrc/cuda/plan.cpp)
target_include_directories(fastspade_cuda PUBLIC csrc)
# The language standard is spelt out: older CMakes do not know that newer CUDA compilers take C++20.
set_property(TARGET fastspade_cuda PROPERTY CXX_STANDARD)
target_compile_options(fastspade_cuda PRIVATE -std=c++20 $<$<COMPILE_LANGUAGE:CUDA>:-O3>)
target_sources(_engine PRIVATE csrc/bindings/cuda.cpp)
target_link_libraries(_engine PRIVATE fastspade_cuda)
target_compile_definitions(_engine PRIVATE FASTSPADE_WITH_CUDA)
string(REPLACE ";" " " FASTSPADE_CUDA_ARCHITECTURES_BUILT "${FASTSPADE_CUDA_ARCHITECTURES}")
