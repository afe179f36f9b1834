# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
include(CMakePackageConfigHelpers)
set(tenon_package_dir ${CMAKE_INSTALL_DATADIR}/cmake/tenon)

install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.hpp")
install(TARGETS ${TENON_TARGETS} EXPORT tenon-targets)
install(EXPORT tenon-targets NAMESPACE tenon:: DESTINATION ${tenon_package_dir})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/tenon-config.cmake.in
  ${PROJECT_BINARY_DIR}/tenon-config.cmake INSTALL_DESTINATION ${tenon_package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/tenon-config-version.cmake
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/tenon-config.cmake ${PROJECT_BINARY_DIR}/tenon-config-version.cmake
  ${CMAKE_CURRENT_LIST_DIR}/components.cmake DESTINATION ${tenon_package_dir})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
