// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <stdexcept>
#include <string>

namespace tenon {

/// What kind of thing went wrong; the sentence says which thing and how to fix it.
enum class errc {
  ok = 0,
  bad_argument,
  bad_shape,
  bad_file,
  bad_config,
  out_of_memory,
  io_failed,
  device_failed,
  comm_failed
};

/// Base of every exception thrown by tenon. `what()` is one sentence that names the thing and the fix.
struct error : std::runtime_error {
  errc code;
  error(errc c, std::string const& what) : std::runtime_error(what), code(c) {}
};
/// A file or folder could not be read, written or understood.
struct file_error : error {
  file_error(std::string const& path, std::string const& what) : error(errc::bad_file, path + ": " + what) {}
  explicit file_error(std::string const& sentence) : error(errc::bad_file, sentence) {}
};
/// A caller's shape, option or flag does not fit.
struct argument_error : error {
  explicit argument_error(std::string const& what) : error(errc::bad_argument, what) {}
};

}  // namespace tenon
