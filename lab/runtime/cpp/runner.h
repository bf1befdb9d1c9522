// A bundle ready to run; its libraries are loaded when first needed.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "array.h"
#include "batching.h"
#include "manifest.h"
#include "model.h"

namespace lab {

class Runner {
 public:
  // `batch_size` >= 0 restricts the runner to the entry compiled for it. Throws Error(usage) when there is none.
  Runner(std::string folder, Manifest manifest, int64_t batch_size);

  // Outputs in the signature's order, for any number of samples. Throws Error.
  std::vector<Array> Run(const std::map<std::string, Array>& inputs);

  // Milliseconds of `num_calls` calls, after three more that are not counted, of the first chunk of `inputs`; only the
  // compiled function is timed. `timed` receives that chunk.
  std::vector<double> Time(const std::map<std::string, Array>& inputs, int num_calls, Chunk* timed);

 private:
  std::vector<Chunk> PlanInputs(const std::map<std::string, Array>& inputs) const;
  Model& ModelOf(size_t entry);
  std::vector<Array> RunChunk(const std::map<std::string, Array>& inputs, const Chunk& chunk);

  std::string folder_;
  Manifest manifest_;
  bool has_batch_;
  std::map<size_t, Model> models_;
};

}  // namespace lab
