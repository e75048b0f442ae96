# LibTorch, out of the folder MAMBAD_TORCH_DIR: the target mambad_torch, and MAMBAD_TORCH_FOUND. Included by the root's
# CMakeLists.txt, where MAMBAD_TRAINER says whether a trainer is wanted.

# missing_companions(OUT LINK-OPTIONS LIBRARIES): the libraries that a program linked with LibTorch would not find as it
# starts. The linker looks for none of them: without this a trainer that cannot start would be built to its end.
function(missing_companions out options libraries)
  set(${out} "" PARENT_SCOPE)
  if(MAMBAD_TORCH_LOADS STREQUAL "${MAMBAD_TORCH_DIR} ${libraries}")
    return()  # seen before
  endif()
  find_program(MAMBAD_LDD ldd)
  mark_as_advanced(MAMBAD_LDD)
  if(NOT MAMBAD_LDD)
    return()
  endif()
  set(program ${CMAKE_BINARY_DIR}/CMakeFiles/torch_loads)
  try_compile(links SOURCE_FROM_CONTENT torch_loads.cc "int main() { return 0; }\n"
    LINK_OPTIONS ${options} LINK_LIBRARIES ${libraries} COPY_FILE ${program} OUTPUT_VARIABLE words NO_CACHE)
  if(NOT links)
    message(FATAL_ERROR "A program cannot be linked with LibTorch in ${MAMBAD_TORCH_DIR}:\n${words}")
  endif()
  execute_process(COMMAND ${MAMBAD_LDD} ${program} OUTPUT_VARIABLE loaded ERROR_QUIET)
  string(REGEX MATCHALL "[^ \t\n]+ => not found" lines "${loaded}")
  list(TRANSFORM lines REPLACE " => not found" "")
  list(REMOVE_DUPLICATES lines)
  if(NOT lines)
    set(MAMBAD_TORCH_LOADS "${MAMBAD_TORCH_DIR} ${libraries}" CACHE INTERNAL "LibTorch of which all was found")
  endif()
  set(${out} "${lines}" PARENT_SCOPE)
endfunction()

# The package of Python's index that has the library; as trainer/setup.sh fetches it.
function(package_of library out)
  set(pairs
    libcudart nvidia-cuda-runtime  libcupti nvidia-cuda-cupti  libcufile nvidia-cufile  libnvrtc nvidia-cuda-nvrtc
    libcusparseLt nvidia-cusparselt-cu13==0.8.0  libnvshmem nvidia-nvshmem-cu13==3.4.5  libnccl nvidia-nccl-cu13
    libcudnn nvidia-cudnn-cu13  libcublas nvidia-cublas  libcufft nvidia-cufft  libcurand nvidia-curand
    libcusparse nvidia-cusparse  libcusolver nvidia-cusolver  libnvJitLink nvidia-nvjitlink)
  set(${out} "" PARENT_SCOPE)
  while(pairs)
    list(POP_FRONT pairs prefix package)
    if(library MATCHES "^${prefix}[^a-zA-Z]" OR (library MATCHES "^${prefix}" AND prefix MATCHES "cublas|cudnn|nvshmem"))
      set(${out} ${package} PARENT_SCOPE)
      return()
    endif()
  endwhile()
endfunction()

# report_missing(LIBRARIES): an error where the trainer is wanted, a warning where it may be left out.
function(report_missing libraries)
  set(packages "")
  foreach(library ${libraries})
    package_of(${library} package)
    list(APPEND packages ${package})
  endforeach()
  list(REMOVE_DUPLICATES packages)
  list(JOIN libraries " " libraries)
  list(JOIN packages " " packages)
  cmake_path(GET MAMBAD_TORCH_DIR PARENT_PATH target)
  set(words "LibTorch in ${MAMBAD_TORCH_DIR} wants libraries that are not here, without which the trainer would not start: "
    "${libraries}.\ntrainer/setup.sh fetches them; so does\n"
    "  python3 -m pip install --no-deps --target ${target} ${packages}\n"
    "Then configure again.")
  list(JOIN words "" words)
  if(MAMBAD_TRAINER STREQUAL "ON")
    message(FATAL_ERROR "${words}")
  endif()
  message(WARNING "THE TRAINER IS LEFT OUT. ${words}")
endfunction()

set(MAMBAD_TORCH_FOUND OFF)
if(NOT EXISTS ${MAMBAD_TORCH_DIR}/lib/libtorch_cpu.so)
  if(MAMBAD_TRAINER STREQUAL "ON")
    message(FATAL_ERROR
      "MAMBAD_TRAINER is ON and ${MAMBAD_TORCH_DIR} has no lib/libtorch_cpu.so: trainer/setup.sh fetches LibTorch")
  endif()
  return()
endif()

set(torch_libraries torch_cpu c10)
if(MAMBAD_CUDA_FOUND AND EXISTS ${MAMBAD_TORCH_DIR}/lib/libtorch_cuda.so)
  list(APPEND torch_libraries torch_cuda c10_cuda)
endif()
list(TRANSFORM torch_libraries REPLACE "(.+)" "${MAMBAD_TORCH_DIR}/lib/lib\\1.so")
# Its OpenMP threads are ours too: no second runtime beside the one it brings.
file(GLOB openmp_runtime ${MAMBAD_TORCH_DIR}/lib/libgomp*.so*)
if(NOT openmp_runtime)
  set(openmp_runtime gomp)
endif()
list(APPEND torch_libraries ${openmp_runtime})
set(torch_options -Wl,--no-as-needed -Wl,--allow-shlib-undefined -Wl,-rpath,${MAMBAD_TORCH_DIR}/lib)
file(GLOB companion_folders ${MAMBAD_TORCH_DIR}/../nvidia/*/lib)
foreach(folder ${companion_folders})
  list(APPEND torch_options -Wl,-rpath,${folder})
endforeach()

missing_companions(missing "${torch_options}" "${torch_libraries}")
if(missing)
  report_missing("${missing}")
  return()
endif()
set(MAMBAD_TORCH_FOUND ON)
# The package's own CMake files ask for the whole CUDA stack, which a CPU-only machine need not have.
add_library(mambad_torch INTERFACE)
target_include_directories(mambad_torch SYSTEM INTERFACE
  ${MAMBAD_TORCH_DIR}/include ${MAMBAD_TORCH_DIR}/include/torch/csrc/api/include)
target_link_options(mambad_torch INTERFACE ${torch_options})
target_link_libraries(mambad_torch INTERFACE ${torch_libraries})
