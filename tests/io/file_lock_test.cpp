// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <optional>

#include <tenon/io/file_lock.hpp>

#include <sys/wait.h>

#include "io/scratch_folder.hpp"

using namespace tenon;

TEST_CASE("file_lock: one holder, who is named, and free when the holder is killed") {
  scratch_folder folder;
  auto const file = folder / ".lock";
  pid_t const child = ::fork();
  if (child == 0) {
    io::file_lock const held(file, "here");
    folder.write("ready", "");
    for (;;) ::pause();
  }
  while (!std::filesystem::exists(folder / "ready")) ::usleep(1000);
  auto const said = message_of([&] { io::file_lock(file, "here"); });
  CHECK(is_one_sentence(said));
  CHECK(said.find("is locked: process " + std::to_string(child) + " on ") != std::string::npos);
  CHECK(said.find(" writes here.") != std::string::npos);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  std::optional<io::file_lock> held;
  held.emplace(file, "here");
  CHECK(folder.read(".lock").rfind("process " + std::to_string(::getpid()), 0) == 0);
  CHECK(message_of([&] { io::file_lock(file, "here"); }).find(std::to_string(::getpid())) != std::string::npos);
  held.reset();
  CHECK_NOTHROW(io::file_lock(file, "here"));
  CHECK(message_of([&] { io::file_lock(folder / "none/.lock", "here"); }).find("no such file") != std::string::npos);
}
