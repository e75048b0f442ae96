# cmake --install BUILD [--prefix PREFIX]: what runs on a host, where a host's tools look for it.
#
#   bin/                   mambad, mambactl, mambad-models; trainer, where it was built
#   lib/mambad/            libmambad_sentencepiece.so, which mambad loads for models with a tokenizer.model; libmambad_cuda.so,
#                          for NVIDIA GPUs, where it was built
#   lib/systemd/system/    mambad.service, which starts that mambad with that configuration; its user: lib/sysusers.d/mambad.conf
#   share/mambad/models/   the models in the box
#   share/mambad/monitoring/   alerts, Grafana's dashboard, Prometheus' configuration
#   share/doc/mambad/      README and licence, sample configurations
#   share/man/, share/{bash-completion,zsh,fish}/   manual pages and completion of mambad and mambactl, which print them themselves
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
install(DIRECTORY deploy/monitoring DESTINATION ${CMAKE_INSTALL_DATADIR}/mambad)
install(FILES README.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY deploy/configurations DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES deploy/systemd/mambad.sysusers DESTINATION lib/sysusers.d RENAME mambad.conf)
# Not CMAKE_INSTALL_LIBDIR: systemd looks in /usr/lib/systemd, on every distribution.
install(CODE "set(unit ${CMAKE_SOURCE_DIR}/deploy/systemd/mambad.service)")
install(CODE [[
  set(folder ${CMAKE_INSTALL_PREFIX}/etc/mambad)
  if(CMAKE_INSTALL_PREFIX STREQUAL "/usr")
    set(folder /etc/mambad)
  endif()
  file(READ ${unit} text)
  string(REPLACE "/usr/bin/" "${CMAKE_INSTALL_PREFIX}/bin/" text "${text}")
  string(REPLACE "/usr/share/" "${CMAKE_INSTALL_PREFIX}/share/" text "${text}")
  string(REPLACE "/etc/mambad/" "${folder}/" text "${text}")
  set(written $ENV{DESTDIR}${CMAKE_INSTALL_PREFIX}/lib/systemd/system/mambad.service)
  message(STATUS "Installing: ${written}")
  file(WRITE ${written} "${text}")
]])
# Said by the programs themselves, from what they read flags by.
foreach(program mambad mambactl)
  if(program STREQUAL mambad)
    set(ask --)  # flags of the daemon, commands of the client
    set(is "=")
  else()
    set(ask "")
    set(is " ")
  endif()
  install(CODE "
    set(share \$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_DATADIR})
    file(MAKE_DIRECTORY \${share}/man/man1)
    execute_process(COMMAND $<TARGET_FILE:${program}> ${ask}manual OUTPUT_FILE \${share}/man/man1/${program}.1
      COMMAND_ERROR_IS_FATAL ANY)
    foreach(place bash-completion/completions/${program} zsh/site-functions/_${program}
            fish/vendor_completions.d/${program}.fish)
      string(REGEX MATCH \"^[a-z]+\" shell \${place})
      get_filename_component(folder \${share}/\${place} DIRECTORY)
      file(MAKE_DIRECTORY \${folder})
      execute_process(COMMAND $<TARGET_FILE:${program}> ${ask}completion${is}\${shell} OUTPUT_FILE \${share}/\${place}
        COMMAND_ERROR_IS_FATAL ANY)
    endforeach()
    message(STATUS \"Installing: \${share}/man/man1/${program}.1\")")
endforeach()
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
