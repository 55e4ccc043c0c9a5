#pragma once

namespace bench {

/// Prints the comparison of engines and masks at growing lengths as a Markdown table; progress goes to standard error.
/// Returns the exit status.
int demo();

}  // namespace bench
