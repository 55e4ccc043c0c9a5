include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(destination ${CMAKE_INSTALL_DATADIR}/cmake/longspan)  # share: nothing here depends on the machine

configure_package_config_file(cmake/longspanConfig.cmake.in ${PROJECT_BINARY_DIR}/longspanConfig.cmake
                              INSTALL_DESTINATION ${destination})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/longspanConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)

install(TARGETS longspan EXPORT longspanTargets)
install(EXPORT longspanTargets NAMESPACE longspan:: DESTINATION ${destination})
install(DIRECTORY include/longspan DESTINATION include FILES_MATCHING PATTERN "*.hpp")
install(FILES ${PROJECT_BINARY_DIR}/longspanConfig.cmake ${PROJECT_BINARY_DIR}/longspanConfigVersion.cmake
              cmake/dependencies.cmake DESTINATION ${destination})
