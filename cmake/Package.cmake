# SPDX-License-Identifier: Apache-2.0
# `cmake --install`: the program, and the libraries as a CMake package (docs/library.md).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# dsv4_package(rooms…): dsv4_<room> becomes dsv4::<room> of find_package(dsv4).
function(dsv4_package)
  set(headers "${CMAKE_INSTALL_INCLUDEDIR}/dsv4")
  set(place "${CMAKE_INSTALL_LIBDIR}/cmake/dsv4")
  foreach(room IN LISTS ARGN)
    set_target_properties(dsv4_${room} PROPERTIES EXPORT_NAME ${room})
    install(TARGETS dsv4_${room} EXPORT dsv4Targets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
  endforeach()
  # Eigen aligns memory as the instruction set asks, so who passes matrices to us needs the same one.
  target_include_directories(dsv4_core INTERFACE "$<INSTALL_INTERFACE:${headers}>")
  target_compile_features(dsv4_core INTERFACE cxx_std_20)
  if(DSV4_MARCH)
    target_compile_options(dsv4_core INTERFACE "$<INSTALL_INTERFACE:-march=${DSV4_MARCH}>")
  endif()
  install(DIRECTORY core reference golden conformance DESTINATION "${headers}" FILES_MATCHING PATTERN "*.hpp"
          PATTERN bugs EXCLUDE)
  install(FILES cli/reference_backend.hpp DESTINATION "${headers}/cli")
  install(EXPORT dsv4Targets NAMESPACE dsv4:: DESTINATION "${place}")
  configure_package_config_file(cmake/dsv4Config.cmake.in "${PROJECT_BINARY_DIR}/dsv4Config.cmake"
                                INSTALL_DESTINATION "${place}")
  write_basic_package_version_file("${PROJECT_BINARY_DIR}/dsv4ConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
  install(FILES "${PROJECT_BINARY_DIR}/dsv4Config.cmake" "${PROJECT_BINARY_DIR}/dsv4ConfigVersion.cmake"
          DESTINATION "${place}")
endfunction()
