#include "error.h"

namespace lab {
namespace {

std::string Compose(const std::string& what, const std::string& got, const std::string& expected,
                    const std::string& hint) {
  std::string text = what;
  if (!got.empty()) text += "\n  got:      " + got;
  if (!expected.empty()) text += "\n  expected: " + expected;
  if (!hint.empty()) text += "\n  try:      " + hint;
  return text;
}

}  // namespace

const char* KindName(Kind kind) {
  switch (kind) {
    case Kind::kUsage:
      return "usage";
    case Kind::kArtifact:
      return "artifact";
    case Kind::kIntegrity:
      return "integrity";
    case Kind::kIncompatible:
      return "incompatible";
    case Kind::kData:
      return "data";
    case Kind::kUnsupported:
      return "unsupported";
    case Kind::kStorage:
      return "storage";
    case Kind::kRuntime:
      return "runtime";
  }
  return "error";
}

Error::Error(Kind kind, std::string what, std::string got, std::string expected, std::string hint)
    : std::runtime_error(Compose(what, got, expected, hint)), kind_(kind) {}

}  // namespace lab
