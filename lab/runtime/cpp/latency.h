// Percentiles of measured latencies.
#pragma once

#include <vector>

namespace lab {

// Linear interpolation between closest ranks, as numpy.percentile does by default; `percent` in [0, 100].
double Percentile(std::vector<double> values, double percent);

}  // namespace lab
