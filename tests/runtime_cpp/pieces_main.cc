// The parts of lab_run that need no TVM, one call each, for
// tests/runtime_cpp/test_pieces.py.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "batching.h"
#include "error.h"
#include "files.h"
#include "latency.h"
#include "npy.h"
#include "sha256.h"

namespace {

std::string Sha256InPieces(const std::string& bytes, size_t piece_bytes) {
  lab::Sha256 hash;
  for (size_t at = 0; at < bytes.size(); at += piece_bytes) {
    hash.Update(bytes.data() + at, std::min(piece_bytes, bytes.size() - at));
  }
  return hash.Hex();
}

// Takes an array apart along an axis and joins it again.
void Split(const std::string& from, const std::string& to, int axis, int argc, char** argv) {
  const lab::Array array = lab::ReadNpy(from);
  std::vector<lab::Entry> entries;
  for (int i = 5; i < argc; ++i) entries.push_back({"", std::atoll(argv[i]), "", ""});
  const auto chunks = lab::Plan(entries, array.shape[axis]);
  std::vector<lab::Array> parts;
  for (const lab::Chunk& chunk : chunks) parts.push_back(lab::Take(array, axis, chunk));
  lab::WriteNpy(to, lab::Join(parts, axis, chunks));
}

void PrintPlan(int argc, char** argv) {
  std::vector<lab::Entry> entries;
  for (int i = 3; i < argc; ++i) entries.push_back({"", std::atoll(argv[i]), "", ""});
  for (const lab::Chunk& chunk : lab::Plan(entries, std::atoll(argv[2]))) {
    std::printf("%lld %lld %lld\n", static_cast<long long>(entries[chunk.entry].batch_size),
                static_cast<long long>(chunk.first), static_cast<long long>(chunk.num_samples));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string part = argv[1];
  try {
    if (part == "sha256")
      std::puts(Sha256InPieces(lab::ReadFile(argv[2], lab::Kind::kData), std::atoi(argv[3])).c_str());
    if (part == "npy") lab::WriteNpy(argv[3], lab::ReadNpy(argv[2]));
    if (part == "split") Split(argv[2], argv[3], std::atoi(argv[4]), argc, argv);
    if (part == "plan") PrintPlan(argc, argv);
    if (part == "percentile") {
      std::vector<double> values;
      for (int i = 3; i < argc; ++i) values.push_back(std::atof(argv[i]));
      std::printf("%.17g\n", lab::Percentile(values, std::atof(argv[2])));
    }
    return 0;
  } catch (const lab::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return error.exit_code();
  }
}
