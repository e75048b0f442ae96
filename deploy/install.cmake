# cmake --install BUILD [--prefix PREFIX]: what runs on a host, where a host's tools look for it.
#
#   bin/                   mambad, mambactl, mambad-models; trainer, where it was built
#   lib/mambad/            libmambad_sentencepiece.so, which mambad loads for models with a tokenizer.model; libmambad_cuda.so,
#                          for NVIDIA GPUs, where it was built
#   share/mambad/models/   the models in the box
#   share/doc/mambad/      README and licence
#   share/man/, share/bash-completion/     manual pages and completion of mambad and mambactl, which print them themselves
#   etc/mambad/            mambad.yaml with every key and its default: edit it, start mambad --config with it. A file that
#                          is there already is left as it is.
include(GNUInstallDirs)

install(TARGETS mambad mambactl mambad-models RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
# Not CMAKE_INSTALL_LIBDIR: mambad looks in ../lib/mambad, on every distribution.
install(TARGETS mambad_sentencepiece LIBRARY DESTINATION lib/mambad)
if(TARGET mambad_cuda)
  install(TARGETS mambad_cuda LIBRARY DESTINATION lib/mambad)
endif()
if(TARGET trainer)
  # It finds LibTorch where it was linked.
  install(TARGETS trainer RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(DIRECTORY deploy/models DESTINATION ${CMAKE_INSTALL_DATADIR}/mambad PATTERN .gitattributes EXCLUDE)
install(FILES README.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
# Made here by the programs, from what they read flags by.
set(manuals ${CMAKE_CURRENT_BINARY_DIR}/manuals)
add_custom_command(OUTPUT ${manuals}/mambad.1 ${manuals}/mambactl.1 ${manuals}/mambad ${manuals}/mambactl
  COMMAND ${CMAKE_COMMAND} -E make_directory ${manuals}
  COMMAND mambad --manual > ${manuals}/mambad.1
  COMMAND mambad --completion > ${manuals}/mambad
  COMMAND mambactl manual > ${manuals}/mambactl.1
  COMMAND mambactl completion > ${manuals}/mambactl
  DEPENDS mambad mambactl VERBATIM)
add_custom_target(manuals ALL DEPENDS ${manuals}/mambad.1)
install(FILES ${manuals}/mambad.1 ${manuals}/mambactl.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES ${manuals}/mambad ${manuals}/mambactl DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(CODE "set(sample ${CMAKE_SOURCE_DIR}/deploy/mambad.yaml)")
install(CODE [[
  set(folder ${CMAKE_INSTALL_PREFIX}/etc/mambad)
  if(CMAKE_INSTALL_PREFIX STREQUAL "/usr")
    set(folder /etc/mambad)
  endif()
  if(EXISTS $ENV{DESTDIR}${folder}/mambad.yaml)
    message(STATUS "Left as it is: $ENV{DESTDIR}${folder}/mambad.yaml")
  else()
    file(INSTALL ${sample} DESTINATION ${folder})
  endif()
]])
