// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: CLI11::CLI11
// Keeps a training job alive: starts its ranks, notices dead and stuck ones, starts those that are left, and more again
// when there is room. What the job saves after each step lies in memory that this program holds.
//
//   tenon-launch --ranks 4 -- train_gpt_mpi --mesh data=4 --steps 200 --out run
//   tenon-launch --ranks 4,2,1 --hosts FILE -- train_gpt_mpi --mesh data={ranks} --steps 200 --out run
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <tenon/core/error.hpp>
#include <tenon/train/stop.hpp>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {
namespace fs = std::filesystem;
using clock_type = std::chrono::steady_clock;
using tenon::argument_error;

struct options {
  std::vector<int> ranks{1};
  std::string hosts, mpirun = "mpirun", memory = "/dev/shm";
  bool local = false;
  int restarts = 100, failures = 3;
  double stall = 600, grow_after = 60;
  std::vector<std::string> command;
};

std::optional<options> read_command_line(int argc, char** argv) {
  options o;
  CLI::App app{
      "Starts a job and keeps it alive: after a rank died or got stuck it is started again, goes on from its last "
      "step, "
      "and ends as if nothing had happened.\nIn the program's arguments {ranks} is the number of ranks. What a program "
      "must do for it: docs/reliability.md."};
  app.add_option("--ranks", o.ranks, "numbers of ranks that the job can have, best first, as in 4,2,1")
      ->delimiter(',')
      ->required()
      ->check(CLI::Range(1, 1000000));
  app.add_option("--hosts", o.hosts,
                 "a host file of mpirun (lines as 'node1 slots=4'), read again all the time: the job shrinks and grows "
                 "with the slots it names");
  app.add_option("--mpirun", o.mpirun, "the command that starts MPI ranks, with options of your own")
      ->capture_default_str();
  app.add_flag("--local", o.local,
               "start the ranks as processes here, without MPI, with RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and "
               "MASTER_PORT as torchrun sets them");
  app.add_option("--memory", o.memory,
                 "a folder in memory for what the job saves after each step; 'none': it goes on from its checkpoints")
      ->capture_default_str();
  app.add_option("--max-restarts", o.restarts, "failures after which it is given up")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str();
  app.add_option("--max-failures", o.failures,
                 "failures one after the other, without a step between them, after which fewer ranks are tried")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app.add_option("--stall-timeout", o.stall, "seconds without a step after which ranks count as stuck")
      ->check(CLI::Range(0.1, 1e9))
      ->capture_default_str();
  app.add_option("--grow-after", o.grow_after, "seconds after which more ranks are tried again")
      ->check(CLI::Range(0.0, 1e9))
      ->capture_default_str();
  app.footer("tenon-launch --ranks N[,FEWER...] [OPTIONS] -- PROGRAM [ARGUMENTS...]");
  // What is behind the first "--" is not for us to understand.
  char** const dashes = std::find_if(argv, argv + argc, [](char const* word) { return !std::strcmp(word, "--"); });
  if (dashes != argv + argc) o.command.assign(dashes + 1, argv + argc);
  try {
    app.parse(int(dashes - argv), argv);
  } catch (CLI::CallForHelp const& e) {
    app.exit(e);
    return {};
  } catch (CLI::ParseError const& e) {
    throw argument_error(std::string(e.what()) + ". Fix: see --help.");
  }
  if (o.command.empty())
    throw argument_error("there is nothing to start. Fix: tenon-launch --ranks N -- PROGRAM ARGUMENTS...");
  std::sort(o.ranks.rbegin(), o.ranks.rend());
  return o;
}

void say(char const* format, ...) __attribute__((format(printf, 1, 2)));
void say(char const* format, ...) {
  std::time_t const now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char line[1000];
  std::size_t const n = std::strftime(line, sizeof line, "tenon-launch %H:%M:%S ", &local);
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line + n, sizeof line - n, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "%s\n", line);
}

/// The folder in memory, for as long as this lives.
class memory_folder {
 public:
  explicit memory_folder(std::string const& above) {
    std::string name = fs::path(above == "none" ? "/dev/shm" : above) / "tenon-launch-XXXXXX";
    if (!mkdtemp(name.data()))
      throw argument_error("--memory " + above + ": cannot make a folder there: " + std::strerror(errno) +
                           ". Fix: a folder that can be written, or 'none'.");
    folder = name;
  }
  ~memory_folder() {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
  }
  memory_folder(memory_folder const&) = delete;
  memory_folder& operator=(memory_folder const&) = delete;
  fs::path const& path() const { return folder; }
  /// The last step that the job has finished; -1 before the first.
  long step() const {
    long n = -1;
    std::ifstream(folder / "progress") >> n;
    return n;
  }

 private:
  fs::path folder;
};

/// Slots of a host file: a line is a host, with `slots=N` or one; # begins a comment.
int slots_of(std::string const& file) {
  std::ifstream in(file);
  if (!in) return 0;
  int slots = 0;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line.substr(0, line.find('#')));
    std::string host, word;
    if (!(words >> host)) continue;
    int of_host = 1;
    while (words >> word)
      if (word.starts_with("slots=")) std::from_chars(word.data() + 6, word.data() + word.size(), of_host);
    slots += of_host;
  }
  return slots;
}

std::vector<pid_t> children_of(pid_t parent) {
  std::vector<pid_t> all;
  std::ifstream in("/proc/" + std::to_string(parent) + "/task/" + std::to_string(parent) + "/children");
  for (pid_t pid; in >> pid;) all.push_back(pid);
  return all;
}
void kill_below(pid_t parent) {
  for (pid_t const child : children_of(parent)) {
    kill_below(child);
    kill(child, SIGKILL);
  }
}

/// All ranks, started once.
class job {
 public:
  job(options const& o, int count, fs::path const& folder) : ranks(count) {
    std::vector<std::string> words;
    if (!o.local) {
      std::istringstream launcher(o.mpirun);
      for (std::string word; launcher >> word;) words.push_back(word);
      words.insert(words.end(), {"-np", std::to_string(ranks)});
      if (!o.hosts.empty()) words.insert(words.end(), {"--hostfile", o.hosts});
    }
    for (std::string word : o.command) {
      for (std::size_t at; (at = word.find("{ranks}")) != std::string::npos;)
        word.replace(at, std::strlen("{ranks}"), std::to_string(ranks));
      words.push_back(word);
    }
    setenv("TENON_LAUNCH_MEMORY", o.memory == "none" ? "" : folder.c_str(), 1);
    setenv("TENON_LAUNCH_PROGRESS", (folder / "progress").c_str(), 1);
    if (!o.local) {
      // Killed ranks leave what they shared with each other; here it is found and removed.
      std::error_code ignored;
      fs::remove_all(folder / "mpi", ignored);
      fs::create_directory(folder / "mpi", ignored);
      setenv("OMPI_MCA_btl_vader_backing_directory", (folder / "mpi").c_str(), 0);
      setenv("OMPI_MCA_odls_base_sigkill_timeout", "0", 0);  // those that are left can do nothing any more
      // More ranks than cores, and the super-user of a container, are what was asked for here.
      setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 0);
      if (geteuid() == 0) {
        setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 0);
        setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 0);
      }
      start(words);
      return;
    }
    setenv("WORLD_SIZE", std::to_string(ranks).c_str(), 1);
    setenv("LOCAL_WORLD_SIZE", std::to_string(ranks).c_str(), 1);
    setenv("MASTER_ADDR", "127.0.0.1", 0);
    setenv("MASTER_PORT", "29500", 0);
    for (int r = 0; r < ranks; ++r) {
      setenv("RANK", std::to_string(r).c_str(), 1);
      setenv("LOCAL_RANK", std::to_string(r).c_str(), 1);
      start(words);
    }
  }
  job(job const&) = delete;
  job& operator=(job const&) = delete;
  ~job() { end(); }

  int const ranks;

  /// Takes note of what has ended; true while all runs. The first failure is what `code` and `what` tell.
  bool running() {
    int status = 0;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
      auto const at = std::find(started.begin(), started.end(), pid);
      if (at == started.end()) continue;  // of a rank whose launcher had ended
      int const c = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      if (!ended++ || (c && !code)) code = c;
      *at = 0;
    }
    return code == 0 && ended < started.size();
  }
  /// What ended it: 0, the program's code, or 128 and the signal.
  int code = 0;
  bool by_signal() const { return code > 128; }

  void signal(int number) const {
    for (pid_t const pid : started)
      if (pid > 0) kill(pid, number);
  }
  /// Ends what still runs: politely, then at once.
  void end() {
    signal(SIGTERM);
    kill_after(std::chrono::milliseconds(500));
  }
  void kill_now() { kill_after({}); }

 private:
  void kill_after(clock_type::duration patience) {
    for (auto const until = clock_type::now() + patience;
         clock_type::now() < until && !children_of(getpid()).empty();) {
      running();
      usleep(2000);
    }
    for (int round = 0; round < 1000 && !children_of(getpid()).empty(); ++round) {
      kill_below(getpid());
      running();
      usleep(2000);
    }
  }
  void start(std::vector<std::string> const& words) {
    std::vector<char*> arguments;
    for (auto const& w : words) arguments.push_back(const_cast<char*>(w.c_str()));
    arguments.push_back(nullptr);
    pid_t const above = getpid(), pid = fork();
    if (pid < 0) throw tenon::error(tenon::errc::io_failed, std::string("cannot start a process: ") + strerror(errno));
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGTERM);  // with us
      if (getppid() != above) _exit(1);
      sigset_t none;
      sigemptyset(&none);
      sigprocmask(SIG_SETMASK, &none, nullptr);
      execvp(arguments[0], arguments.data());
      std::fprintf(stderr, "tenon-launch: %s: cannot be started: %s. Fix: check the spelling and PATH.\n", arguments[0],
                   std::strerror(errno));
      _exit(127);
    }
    started.push_back(pid);
  }
  std::vector<pid_t> started;  ///< 0: has ended
  std::size_t ended = 0;
};

class supervisor {
 public:
  explicit supervisor(options const& given) : o(given), memory(o.memory) {
    if (!o.hosts.empty() && !std::ifstream(o.hosts))
      throw argument_error("--hosts " + o.hosts + ": cannot be read. Fix: name a host file of mpirun.");
    prctl(PR_SET_CHILD_SUBREAPER, 1);  // ranks whose mpirun died come to us, to be ended
    sigemptyset(&signals);
    for (int const s : {SIGCHLD, SIGTERM, SIGINT, SIGUSR1}) sigaddset(&signals, s);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
  }

  /// Returns the job's code: 0, stopped_exit_code, or that of its last failure.
  int run() {
    for (;;) {
      int const ranks = choice(wanted);
      if (!ranks) {
        say("no host has room for %d ranks: waiting", o.ranks.back());
        while (!choice(wanted))
          if (int const s = next_signal(1); s == SIGTERM || s == SIGINT || s == SIGUSR1)
            return tenon::stopped_exit_code;
        continue;
      }
      long const before = memory.step();
      job all(o, ranks, memory.path());
      int const code = watch(all);
      all.end();
      if (code == 0 || interrupted) return code;
      long const reached = memory.step();
      if (code == tenon::stopped_exit_code) {
        if (!resizing) say("the job saved itself and stopped: started again");
        continue;
      }
      if (reached < 0 && !stuck && !all.by_signal()) {
        say("the program ended with code %d before its first step: not started again", code);
        return code;
      }
      failures_in_a_row = reached > before ? 1 : failures_in_a_row + 1;
      if (++failures > o.restarts) {
        say("failure %d: given up (--max-restarts)", failures);
        return code;
      }
      if (failures_in_a_row >= o.failures) {
        int const fewer = choice(ranks - 1);
        if (!fewer) {
          say("%d failures without a step between them: given up", failures_in_a_row);
          return code;
        }
        wanted = fewer;
        shrunk = clock_type::now();
        failures_in_a_row = 0;
      }
      say("%s after step %ld: started again with %d ranks (failure %d)", stuck ? "stuck" : "failed", reached,
          choice(wanted), failures);
    }
  }

 private:
  static constexpr int any = 1 << 30;

  /// The most ranks, up to `most`, that there is room for; 0: none.
  int choice(int most) const {
    if (!o.hosts.empty()) most = std::min(most, slots_of(o.hosts));
    auto const it = std::find_if(o.ranks.begin(), o.ranks.end(), [&](int r) { return r <= most; });
    return it == o.ranks.end() ? 0 : *it;
  }
  /// A signal that came within the seconds, or 0.
  int next_signal(double seconds) const {
    timespec const time{std::time_t(seconds), long((seconds - double(long(seconds))) * 1e9)};
    int const s = sigtimedwait(&signals, nullptr, &time);
    return s < 0 ? 0 : s;
  }
  /// Until the job has ended, or must be ended; returns its code.
  int watch(job& all) {
    long step = memory.step();
    auto moved = clock_type::now();
    stuck = resizing = false;
    while (all.running()) {
      int const s = next_signal(0.1);
      if (s == SIGINT) {
        interrupted = true;
        return 128 + SIGINT;
      }
      if (s == SIGTERM || s == SIGUSR1) {
        say("asked to stop: the job saves itself");
        interrupted = true;
        all.signal(SIGUSR1);  // mpirun hands it on to the ranks
      }
      auto const now = clock_type::now();
      auto const since = [&](clock_type::time_point t) { return std::chrono::duration<double>(now - t).count(); };
      if (long const n = memory.step(); n != step) {
        step = n;
        moved = now;
      }
      if (since(moved) > o.stall) {
        stuck = true;
        all.kill_now();
        return 128 + SIGKILL;
      }
      if (wanted != any && since(shrunk) > o.grow_after) wanted = any;
      if (int const best = choice(wanted); best && best != all.ranks && !resizing && !interrupted) {
        say("%s from %d to %d ranks", best > all.ranks ? "growing" : "shrinking", all.ranks, best);
        resizing = true;
        all.signal(SIGUSR1);
      }
    }
    return all.code;
  }

  options const& o;
  memory_folder memory;
  sigset_t signals{};
  int wanted = any, failures = 0, failures_in_a_row = 0;
  clock_type::time_point shrunk{};
  bool stuck = false, resizing = false, interrupted = false;
};

}  // namespace

int main(int argc, char** argv) try {
  auto const o = read_command_line(argc, argv);
  return o ? supervisor(*o).run() : 0;
} catch (std::exception const& e) {
  std::fprintf(stderr, "tenon-launch: %s\n", e.what());
  return 2;
}
