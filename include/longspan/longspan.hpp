#pragma once
// Everything.

#include <longspan/attention.hpp>
#include <longspan/core/eigen.hpp>
#include <longspan/exec/serial.hpp>
#include <longspan/exec/thread_pool.hpp>
#include <longspan/kv/contiguous.hpp>
#include <longspan/kv/paged.hpp>
#include <longspan/mask/algebra.hpp>
#include <longspan/mask/block_sparse.hpp>
#include <longspan/mask/documents.hpp>
#include <longspan/mask/masks.hpp>
#include <longspan/position/frequencies.hpp>
#include <longspan/position/rope.hpp>
#include <longspan/score/scores.hpp>
