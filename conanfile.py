# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeToolchain
from conan.tools.files import load
from conan.tools.layout import basic_layout


class Tenon(ConanFile):
    name = "tenon"
    description = "Transformer training and inference from one line of types"
    license = "Apache-2.0 WITH LLVM-exception"
    topics = ("transformer", "training", "inference", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"json": [True, False]}  # the components io, data and train read and write JSON
    default_options = {"json": True}
    exports_sources = "CMakeLists.txt", "cmake/*", "include/*", "LICENSE"
    no_copy_source = True

    def set_version(self):
        text = load(self, os.path.join(self.recipe_folder, "CMakeLists.txt"))
        self.version = re.search(r"project\(Tenon VERSION ([0-9.]+)", text).group(1)

    def layout(self):
        basic_layout(self)

    def requirements(self):
        if self.options.json:
            self.requires("nlohmann_json/[>=3.10 <4]")

    def validate(self):
        check_min_cppstd(self, 20)

    def generate(self):
        toolchain = CMakeToolchain(self)
        for part in ("TESTS", "EXAMPLES", "BENCHMARKS"):
            toolchain.cache_variables[f"TENON_BUILD_{part}"] = False
        toolchain.generate()

    def package(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.install()

    def package_id(self):
        self.info.clear()

    def package_info(self):
        # The package brings its own tenon-config.cmake, with a target per component; Conan need not write another.
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs = [os.path.join("share", "cmake", "tenon")]
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
