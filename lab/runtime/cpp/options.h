// The command line.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace lab {

struct Options {
  std::string bundle;
  std::map<std::string, std::string> inputs;  // name -> .npy file
  std::string output_dir;
  std::string function = "main";
  int num_timed_calls = 0;
  int64_t batch_size = -1;  // -1: the runner chooses
  int num_threads = 0;      // 0: every core
  bool verify = true;
  bool help = false;
};

extern const char kUsageText[];

// Throws Error(usage).
Options ParseOptions(int argc, char** argv);

}  // namespace lab
