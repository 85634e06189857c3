# SPDX-License-Identifier: Apache-2.0
# find_package, with an error that names the Debian/Ubuntu package to install.

macro(dsv4_find package apt_package)
  find_package(${package} ${ARGN} QUIET)
  if(NOT ${package}_FOUND)
    message(FATAL_ERROR "${package} was not found.\n"
                        "Install it with:  sudo apt-get install ${apt_package}\n"
                        "or everything at once with:  make setup")
  endif()
endmacro()
