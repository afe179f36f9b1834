// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Checkpoints as folders of files: which there are, whether one is as it was written, which may go.
///
/// A checkpoint is a folder `step-00000200`. Its `state.json` says what the run is, and of each other file the size and
/// the SHA-256 of its header and of every tensor, which together are all of its bytes. Tensors are whole, under the names
/// of the whole model: `model.safetensors` and `optimizer.safetensors`, or, where several ranks wrote,
/// `model-00001-of-00004.safetensors` and so on with the index that Hugging Face's libraries read. No name or number in
/// it depends on the mesh that wrote it.   @test tests/train/checkpoint_test.cpp
#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <nlohmann/json.hpp>

#include <tenon/core/error.hpp>
#include <tenon/core/view.hpp>
#include <tenon/io/atomic_file.hpp>
#include <tenon/io/mapped_file.hpp>
#include <tenon/io/safetensors.hpp>
#include <tenon/io/sha256.hpp>

namespace tenon {

/// A checkpoint that is not what was written: a file is missing, truncated, altered or another checkpoint's.
struct broken_checkpoint : file_error {
  using file_error::file_error;
};

/// Which checkpoints stay when a new one is there: the newest ones, and those of every so many steps.
struct retention {
  std::size_t newest = 2;  ///< at least 1
  index_t every = 0;       ///< steps; 0: none for its number
};

/// The checkpoints of a folder, or of two, oldest first; of the same step that of `other` is last. Empty when there is
/// none.
inline std::vector<io::path> list_checkpoints(io::path const& folder, io::path const& other = {}) {
  auto const older = [](io::path const& a, io::path const& b) {
    std::string const x = a.filename().string(), y = b.filename().string();
    return x.size() != y.size() ? x.size() < y.size() : x < y;
  };
  auto const list = [&](io::path const& each) {
    std::vector<io::path> found;
    std::error_code ignored;
    for (std::filesystem::directory_iterator it(each, ignored), end; !ignored && it != end; it.increment(ignored)) {
      std::string const name = it->path().filename().string();
      if (name.rfind("step-", 0) == 0 && name.size() >= 13 &&
          name.find_first_not_of("0123456789", 5) == std::string::npos)
        found.push_back(it->path());
    }
    std::sort(found.begin(), found.end(), older);
    return found;
  };
  auto const first = list(folder), second = list(other);
  std::vector<io::path> all(first.size() + second.size());
  std::merge(first.begin(), first.end(), second.begin(), second.end(), all.begin(), older);
  return all;
}

/// Removes checkpoints that are older than `newest`, which is known to be good, but for those that are to stay. Nothing
/// newer is touched.
inline void prune_checkpoints(io::path const& newest, retention const& kept) {
  auto all = list_checkpoints(io::detail::folder_of(newest));
  all.erase(std::find(all.begin(), all.end(), newest), all.end());
  for (std::size_t i = 0; i + std::max<std::size_t>(kept.newest, 1) <= all.size(); ++i) {
    std::string const digits = all[i].filename().string().substr(5);
    if (kept.every > 0 && digits.size() < 19 && std::stoll(digits) % kept.every == 0) continue;
    io::remove_folder_atomically(all[i]);
  }
}

namespace train {

/// Shares things of these sizes out among ranks, so that none has much more than another: the largest first, each to the
/// rank that has least. Returns the rank of each.
inline std::vector<int> share_out(std::vector<index_t> const& sizes, int ranks) {
  std::vector<std::size_t> order(sizes.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return sizes[a] != sizes[b] ? sizes[a] > sizes[b] : a < b; });
  std::vector<index_t> load(static_cast<std::size_t>(ranks));
  std::vector<int> rank_of(sizes.size());
  for (std::size_t i : order) {
    auto const least = std::min_element(load.begin(), load.end());
    *least += sizes[i];
    rank_of[i] = int(least - load.begin());
  }
  return rank_of;
}

/// A description and its own SHA-256, as the text of a file.
inline std::string sealed(nlohmann::ordered_json description) {
  std::string const text = description.dump();
  description["sha256"] = io::sha256_hex(std::as_bytes(std::span(text)));
  return description.dump(2) + "\n";
}

/// The files of a checkpoint, mapped: whoever wants a part of a tensor reads no more than that.
/// @error broken_checkpoint names the file, the tensor, and the fix
class checkpoint_files {
 public:
  static constexpr int format = 2;

  explicit checkpoint_files(io::path folder) : place(std::move(folder)) {
    try {
      read_description();
      open();
    } catch (broken_checkpoint const&) {
      throw;
    } catch (file_error const& e) {
      throw broken_checkpoint(e.what());
    } catch (nlohmann::json::exception const&) {
      refuse("state.json", "does not describe a checkpoint: a field is missing or has the wrong type");
    }
  }

  nlohmann::ordered_json const& state() const { return description; }
  std::map<std::string, io::safetensors_file, std::less<>> const& files() const { return opened; }
  /// The file that has a tensor.
  io::safetensors_file const& file_of(std::string_view tensor) const {
    for (auto const& [name, file] : opened)
      if (file.contains(tensor)) return file;
    refuse("state.json", "names no file that has the tensor '" + std::string(tensor) + "'");
  }

  /// Compares every byte with what was written; of several ranks each takes its share. (What format 1 wrote has no
  /// digests.)
  void verify(int rank = 0, int ranks = 1) const {
    struct piece {
      std::string file, tensor;  // no tensor: the header
      std::span<std::byte const> bytes;
      std::string expected;
    };
    std::vector<piece> pieces;
    std::vector<index_t> sizes;
    try {
      for (auto const& [name, file] : opened) {
        auto const& written = description.at("files").at(name);
        pieces.push_back({name, "", file.header(), written.at("header")});
        for (auto const& [tensor, content] : file.tensors())
          pieces.push_back({name, tensor, content.bytes, written.at("tensors").value(tensor, "")});
      }
      for (auto const& [name, file] : indexes)
        pieces.push_back({name, "", file.bytes(), description.at("files").at(name).at("header")});
    } catch (nlohmann::json::exception const&) {
      if (description.at("format") == format) refuse("state.json", "lacks the digest of a file");
      return;
    }
    for (auto const& p : pieces) sizes.push_back(index_t(p.bytes.size()));
    auto const rank_of = share_out(sizes, ranks);
    std::vector<std::span<std::byte const>> mine;
    for (std::size_t i = 0; i < pieces.size(); ++i)
      if (rank_of[i] == rank) mine.push_back(pieces[i].bytes);
    auto const digests = io::sha256_hex_of_each(mine);
    for (std::size_t i = 0, done = 0; i < pieces.size(); ++i)
      if (auto const& p = pieces[i]; rank_of[i] == rank && digests[done++] != p.expected)
        refuse(p.file, (p.tensor.empty() ? "its header" : "tensor '" + io::detail::shown(p.tensor) + "'") +
                           " is not what was written: the file was altered, or is another checkpoint's");
  }

 private:
  [[noreturn]] void refuse(std::string const& file, std::string const& what) const {
    throw broken_checkpoint((place / file).string(),
                            what +
                                ". Fix: copy the file again from where it was written, or remove the folder to "
                                "resume from an older checkpoint.");
  }
  void read_description() {
    io::mapped_file const file(place / "state.json");
    auto const* const text = reinterpret_cast<char const*>(file.bytes().data());
    description = nlohmann::ordered_json::parse(text, text + file.size(), nullptr, false);
    if (!description.is_object()) refuse("state.json", "is not a JSON object");
    int const found = description.at("format");
    if (found < 1 || found > format)
      throw broken_checkpoint(
          (place / "state.json").string(),
          "is of format " + std::to_string(found) + ". Fix: read the checkpoint with the release that wrote it.");
    if (found == 1) return;
    std::string const seal = description.at("sha256");
    description.erase("sha256");
    std::string const rest = description.dump();
    if (io::sha256_hex(std::as_bytes(std::span(rest))) != seal) refuse("state.json", "is not what was written");
  }
  void open() {
    if (description.at("format") == 1) {
      for (char const* name : {"model.safetensors", "optimizer.safetensors"}) opened.try_emplace(name, place / name);
      return;
    }
    for (auto const& [name, written] : description.at("files").items()) {
      std::error_code none;
      auto const bytes = std::filesystem::file_size(place / name, none);
      if (none) refuse(name, "is missing or cannot be read");
      if (bytes != written.at("bytes"))
        refuse(name, "has " + std::to_string(bytes) + " bytes, and " + written.at("bytes").dump() + " were written");
      if (io::path(name).extension() == ".safetensors") opened.try_emplace(name, place / name);
      else indexes.try_emplace(name, place / name);
    }
  }

  io::path place;
  nlohmann::ordered_json description;
  std::map<std::string, io::safetensors_file, std::less<>> opened;
  std::map<std::string, io::mapped_file> indexes;
};

}  // namespace train

/// Reads all of a checkpoint and compares it with what was written.
/// @error broken_checkpoint names the file, the tensor, and the fix
inline void verify_checkpoint(io::path const& folder) { train::checkpoint_files(folder).verify(); }

}  // namespace tenon
