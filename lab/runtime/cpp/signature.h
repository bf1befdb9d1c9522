// Names, dtypes and symbolic shapes of a model's inputs and outputs: lab/core/signature.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lab {

// A dimension is a number, or a name when it varies ("batch").
struct Dim {
  int64_t size = 0;
  std::string symbol;  // empty: fixed
};

struct TensorSpec {
  std::string name;
  std::string dtype;
  std::vector<Dim> shape;

  std::string ToString() const;  // "float32[batch, 3]"
};

struct Signature {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
};

}  // namespace lab
