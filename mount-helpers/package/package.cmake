# `cpack -G DEB` in a build tree makes a Debian package of what `cmake --install` installs. Included
# last by the top-level CMakeLists.txt.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME lockfs)
set(CPACK_PACKAGE_VENDOR lockfs)
set(CPACK_PACKAGE_CONTACT "lockfs maintainers <root@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGE_DESCRIPTION
    "lockfs mounts a directory so that flock, POSIX and open-file-description locks taken there go
through one byte-range lock manager and are carried to the backing files, where the locks of NFS
clients are: local programs and NFS clients see the same conflicts.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
# All but the component lockmgr, the library for those who embed it.
set(CPACK_INSTALL_CMAKE_PROJECTS "${CMAKE_BINARY_DIR};lockfs;Unspecified;/")

set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_DEPENDS mount)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS fuse3) # fusermount3, for mounts by plain users
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "nfs-kernel-server, nfs-ganesha")
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA
    "${CMAKE_CURRENT_LIST_DIR}/postinst;${CMAKE_CURRENT_LIST_DIR}/prerm;${CMAKE_CURRENT_LIST_DIR}/postrm")
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)

include(CPack)
