#include "engine/speculation/cost_curve.h"

#include <algorithm>
#include <cmath>

namespace mambad {
namespace {

constexpr int64_t kForget = 1000;  // steps after which a cost is no longer believed
constexpr double kRiseShare = 0.05,
                 kFallShare = 0.3;  // how fast a cost follows slower and faster measurements
// Before sizes were measured: a step costs as if eight rows' work came on top of its own.
constexpr double kFixedRows = 8;

}  // namespace

// Sizes up to 64 have a cell each; above, eight cells for each doubling.
int CostCurve::Index(int size) {
  size = std::max(size, 0);
  if (size < kExact) return size;
  return std::min(kCells - 1,
                  kExact + static_cast<int>(8 * std::log2(static_cast<double>(size) / kExact)));
}

void CostCurve::Add(int size, double seconds, int64_t now) {
  if (!(seconds > 0) || !std::isfinite(seconds)) return;
  Cell& cell = cells_[Index(size)];
  if (cell.updated < 0 || now - cell.updated > kForget) {
    // One slow step must not make a size look bad for long: it would not be tried again.
    const double expected = At(size, now);
    cell.seconds = expected > 0 ? std::min(seconds, 1.5 * expected) : seconds;
    cell.count = 0;
  } else if (cell.count < 4) {
    cell.seconds = std::min(cell.seconds, seconds);
  } else if (seconds > cell.seconds) {
    cell.seconds += kRiseShare * std::min(seconds - cell.seconds, cell.seconds);
  } else {
    // Noise makes no step much faster than usual: the machine or the batch has changed.
    const double share = seconds < 0.75 * cell.seconds ? 1 : kFallShare;
    cell.seconds += share * (seconds - cell.seconds);
  }
  cell.updated = now;
  ++cell.count;
  cell.size = size;
  measured_ = true;
  ++question_;
}

double CostCurve::At(int size, int64_t now) const {
  if (!measured_) return 0;
  if (size < 0 || size >= kKnown) return WorkedOut(size, now);
  if (question_now_ != now) {
    question_now_ = now;
    ++question_;
  }
  Known& known = known_[size];
  if (known.asked != question_) known = {WorkedOut(size, now), question_};
  return known.seconds;
}

double CostCurve::WorkedOut(int size, int64_t now) const {
  const Cell *below = nullptr, *above = nullptr, *stale = nullptr;
  const int index = Index(size);
  for (int i = index; i >= 0 && below == nullptr; --i) {
    if (cells_[i].updated < 0) continue;
    (now - cells_[i].updated <= kForget ? below : stale) = &cells_[i];
  }
  for (int i = index; i < kCells && above == nullptr; ++i) {
    if (cells_[i].updated < 0) continue;
    (now - cells_[i].updated <= kForget ? above : stale) = &cells_[i];
  }
  if (below != nullptr && above != nullptr && below->size < above->size) {
    const double share = static_cast<double>(size - below->size) / (above->size - below->size);
    return below->seconds + std::clamp(share, 0.0, 1.0) * (above->seconds - below->seconds);
  }
  const Cell* near = below != nullptr ? below : above != nullptr ? above : stale;
  return near->seconds * (kFixedRows + size) / (kFixedRows + near->size);
}

bool CostCurve::Fresh(int size, int64_t steps, int64_t now) const {
  for (int i = Index(size - size / 4); i <= Index(size + size / 4); ++i) {
    if (cells_[i].updated >= 0 && now - cells_[i].updated <= steps) return true;
  }
  return false;
}

}  // namespace mambad
