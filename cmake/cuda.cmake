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

file(GLOB FASTSPADE_CUDA_SOURCES CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/csrc/cuda/*.cu)
if(NOT FASTSPADE_CUDA_SOURCES)
  if(FASTSPADE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FASTSPADE_CUDA=ON, but this version of fastspade has no CUDA engine yet; use AUTO or OFF")
  endif()
  message(STATUS "fastspade: no CUDA sources, building the CPU engine alone")
  return()
endif()
