// Search kernels, which are named on the command line.
#include "kernels.hpp"

namespace fastspade::cuda {

FASTSPADE_KERNELS

}  // namespace fastspade::cuda
