// Errors of the edge runner: one class, one exit code per kind, so that a caller can tell them apart.
#pragma once

#include <stdexcept>
#include <string>

namespace lab {

// Exit codes, the same as those of the `lab` command; lab/runtime/edge.py maps them back to the lab's errors.
enum class Kind : int {
  kRuntime = 1,
  kUsage = 2,
  kData = 3,
  kArtifact = 4,
  kIntegrity = 5,
  kIncompatible = 6,
  kUnsupported = 7,
  kStorage = 10,
};

const char* KindName(Kind kind);

// Message = what failed, what was got, what was expected, what to try.
class Error : public std::runtime_error {
 public:
  Error(Kind kind, std::string what, std::string got = "", std::string expected = "", std::string hint = "");

  Kind kind() const { return kind_; }
  int exit_code() const { return static_cast<int>(kind_); }

 private:
  Kind kind_;
};

}  // namespace lab
