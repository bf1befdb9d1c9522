// Named arrays of any batch size through functions compiled for fixed ones: check, split, pad, join.
// The same rules as lab/runtime/batching.py and tvm_runner.py.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "array.h"
#include "manifest.h"

namespace lab {

// The symbolic dimension that is split and padded.
extern const char kBatch[];

// Samples [first, first + num_samples) of a request, run by entries[entry] at `batch_size`; the rest is padding.
struct Chunk {
  size_t entry;
  int64_t first;
  int64_t num_samples;
  int64_t batch_size;
};

// Checks names, dtypes and shapes against the signature and returns the value of every symbolic dimension.
// Throws Error(data).
std::map<std::string, int64_t> CheckInputs(const Signature& signature, const std::map<std::string, Array>& inputs);

// Throws Error(runtime) when the outputs are not those of the signature.
void CheckOutputs(const Signature& signature, const std::vector<Array>& outputs, std::map<std::string, int64_t> dims);

// Which dimension is the batch; -1: none.
int BatchAxis(const TensorSpec& spec);

// An entry that takes any batch runs everything at once. Otherwise the chunks with the fewest computed samples, then
// the fewest calls; largest first.
std::vector<Chunk> Plan(const std::vector<Entry>& entries, int64_t num_samples);

// The samples of a chunk, padded with zeros to its batch size.
Array Take(const Array& array, int axis, const Chunk& chunk);

// The arrays side by side along `axis`, each without its padding.
Array Join(const std::vector<Array>& parts, int axis, const std::vector<Chunk>& chunks);

}  // namespace lab
