// Compiled functions of a bundle, run by TVM's Relax virtual machine.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "array.h"
#include "manifest.h"

namespace lab {

// Must be called before the first model runs: TVM reads its thread settings once, when its pool starts.
void ConfigureThreads(int num_threads);

// One compiled function with its loaded library.
class Model {
 public:
  // Throws Error(runtime) when the library does not load or lacks the function.
  Model(const std::string& folder, const Entry& entry);
  ~Model();
  Model(Model&&) noexcept;

  // Copies the arrays into aligned tensors the function reads; call before Run.
  void SetInputs(const std::vector<Array>& inputs);
  // Runs on the inputs given last. Throws Error(runtime).
  void Run();
  // Outputs of the last run, in the signature's order.
  std::vector<Array> Outputs() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lab
