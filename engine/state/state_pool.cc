#include "engine/state/state_pool.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace mambad {

namespace {

using checkpoint::MixerKind;

constexpr int32_t kNoPage = -1;

}  // namespace

StatePool::StatePool(const std::vector<Block>& blocks, const StatePoolShape& shape,
                     kernels::Backend& backend)
    : backend_(backend), shape_(shape), layers_(blocks.size()) {
  AllocateRecurrent(blocks);
  AllocatePages(blocks);
  MeasureImages();
  const size_t table_bytes = sizeof(int32_t) * shape.slots * pages_per_sequence_;
  table_ = backend.AllocateHost(table_bytes);
  device_table_ = backend.Allocate(table_bytes);
  assigned_.assign(shape.slots, 0);
  clean_.assign(shape.slots, 0);
  stale_.assign(shape.slots, 0);
  changed_.resize(shape.slots);
}

// Sizes as kernels/backend.h gives them for checkpoint and ring.
void StatePool::DescribeRecurrent(const Block& block, Layer* layer) {
  const auto describe = [layer](const auto& mixer, int64_t inner_width) {
    layer->state_floats = inner_width * mixer.state_size;
    layer->input_floats = mixer.convolution_channels();
    layer->inputs = mixer.convolution_width - 1;
  };
  if (block.mixer == MixerKind::kMamba) {
    describe(block.mamba, (int64_t{block.mamba.inner_width} + 15) / 16 * 16);
  } else {
    describe(block.mamba2, block.mamba2.inner_width);
  }
}

void StatePool::AllocateRecurrent(const std::vector<Block>& blocks) {
  std::vector<int64_t> begin(blocks.size());  // of the layer's block in a slot
  waiting_rows_ = image_size_.replay_rows = std::numeric_limits<int>::max();
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i].mixer == MixerKind::kAttention) continue;
    kernels::RecurrentSlotLayout& layout = layers_[i].recurrent.layout;
    layout = blocks[i].mixer == MixerKind::kMamba
                 ? backend_.SlotLayout(blocks[i].mamba, shape_.window_rows, shape_.keeps_working)
                 : backend_.SlotLayout(blocks[i].mamba2, shape_.window_rows, shape_.keeps_working);
    begin[i] = recurrent_floats_;
    recurrent_floats_ += layout.floats;
    waiting_rows_ = std::min(waiting_rows_, layout.waiting_rows);
    image_size_.replay_rows = std::min(image_size_.replay_rows, layout.replay_rows);
    DescribeRecurrent(blocks[i], &layers_[i]);
  }
  // Without recurrent layers a row that waits is a number and nothing else.
  if (recurrent_floats_ == 0) {
    waiting_rows_ = 0;
    image_size_.replay_rows = kernels::kMaxWindowRows;
  }
  recurrent_ = backend_.Allocate(shape_.slots * recurrent_floats_ * sizeof(float));
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i].mixer == MixerKind::kAttention) continue;
    layers_[i].recurrent.data = recurrent_.as<float>() + begin[i];
    layers_[i].recurrent.slot_stride = recurrent_floats_;
  }
}

void StatePool::AllocatePages(const std::vector<Block>& blocks) {
  for (const Block& block : blocks)
    cache_size_.has_attention |= block.mixer == MixerKind::kAttention;
  if (cache_size_.has_attention) {
    pages_per_sequence_ =
        static_cast<int>((shape_.max_context + kernels::kPageTokens - 1) / kernels::kPageTokens);
    cache_size_.pages = (shape_.cache_tokens + kernels::kPageTokens - 1) / kernels::kPageTokens;
  }
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i].mixer != MixerKind::kAttention) continue;
    Layer& layer = layers_[i];
    const kernels::KeyValueLayout layout =
        backend_.PageLayout(blocks[i].attention, shape_.key_values);
    layer.keys = backend_.Allocate(cache_size_.pages * layout.key_bytes);
    layer.values = backend_.Allocate(cache_size_.pages * layout.value_bytes);
    layer.key_values = {layer.keys.as<std::byte>(), layer.values.as<std::byte>(), layout};
    page_bytes_ += layout.key_bytes + layout.value_bytes;
  }
  // The lowest page is handed out first.
  for (int64_t page = cache_size_.pages - 1; page >= 0; --page)
    free_pages_.push_back(static_cast<int32_t>(page));
  holders_.assign(cache_size_.pages, 0);
}

void StatePool::MeasureImages() {
  constexpr int64_t kFloat = sizeof(float);
  for (const Layer& layer : layers_) {
    const int64_t inputs = layer.inputs * layer.input_floats;
    const int64_t replay_row = layer.recurrent.layout.replay_row;
    const kernels::KeyValueLayout& pages = layer.key_values.layout;
    image_size_.fixed += (layer.state_floats + inputs) * kFloat;
    image_size_.replay_row += replay_row * kFloat;
    image_size_.page += pages.key_bytes + pages.value_bytes;
    absl::StrAppend(&image_size_.layout, layer.state_floats, ",", inputs, ",", replay_row, ",",
                    pages.key_bytes, ",", pages.value_bytes, ";");
  }
}

bool StatePool::Acquire(int slot, int64_t positions, int64_t forked_at, bool clean) {
  clean_[slot] = clean;
  const int64_t shared = cache_size_.PagesShared(forked_at);
  std::fill_n(PagesOf(slot), shared, kNoPage);
  assigned_[slot] = static_cast<int32_t>(shared);
  if (!Extend(slot, positions)) {
    assigned_[slot] = 0;
    return false;
  }
  stale_[slot] = 1;
  return true;
}

void StatePool::ZeroWhereStale(int slot) {
  if (stale_[slot] == 0) return;
  stale_[slot] = 0;
  if (recurrent_floats_ > 0) backend_.Fill(SlotBlock(slot), 0.0f, recurrent_floats_);
}

bool StatePool::Extend(int slot, int64_t positions) {
  const int64_t pages = cache_size_.PagesFor(positions), had = assigned_[slot];
  if (pages <= had) return true;
  if (pages - had > pages_free() || pages > pages_per_sequence_) return false;
  int32_t* row = PagesOf(slot);
  for (int64_t i = had; i < pages; ++i) {
    row[i] = free_pages_.back();
    free_pages_.pop_back();
    holders_[row[i]] = 1;
    if (clean_[slot] != 0) ClearPage(row[i]);
  }
  assigned_[slot] = static_cast<int32_t>(pages);
  Change(slot, had, pages);
  return true;
}

void StatePool::Release(int slot) {
  const int32_t* row = PagesOf(slot);
  for (int32_t i = assigned_[slot] - 1; i >= 0; --i) Drop(row[i]);
  assigned_[slot] = 0;
  stale_[slot] = 0;
}

void StatePool::Drop(int32_t page) {
  if (page != kNoPage && --holders_[page] == 0) free_pages_.push_back(page);
}

void StatePool::Fork(int from, int to, int64_t positions) {
  ZeroWhereStale(from);
  stale_[to] = 0;
  if (recurrent_floats_ > 0)
    backend_.Copy(SlotBlock(to), SlotBlock(from), recurrent_floats_ * sizeof(float));
  const int64_t shared = cache_size_.PagesShared(positions);
  const int32_t* from_row = PagesOf(from);
  int32_t* to_row = PagesOf(to);
  for (int64_t i = 0; i < shared; ++i) {
    Drop(to_row[i]);
    to_row[i] = from_row[i];
    ++holders_[to_row[i]];
  }
  Change(to, 0, shared);
  if (cache_size_.PagesFor(positions) > shared) CopyPage(from_row[shared], to_row[shared]);
}

void StatePool::ClearPage(int32_t page) {
  const auto clear = [this](std::byte* memory, int64_t bytes) {
    backend_.Fill(reinterpret_cast<float*>(memory), 0.0f, bytes / sizeof(float));
  };
  for (const Layer& layer : layers_) {
    const auto& [keys, values, layout] = layer.key_values;
    if (keys == nullptr) continue;
    clear(keys + page * layout.key_bytes, layout.key_bytes);
    clear(values + page * layout.value_bytes, layout.value_bytes);
  }
}

void StatePool::CopyPage(int32_t from, int32_t to) {
  for (const Layer& layer : layers_) {
    const auto& [keys, values, layout] = layer.key_values;
    if (keys == nullptr) continue;
    backend_.Copy(keys + to * layout.key_bytes, keys + from * layout.key_bytes, layout.key_bytes);
    backend_.Copy(values + to * layout.value_bytes, values + from * layout.value_bytes,
                  layout.value_bytes);
  }
}

void StatePool::Shrink(int slot, int64_t positions) {
  const auto pages = static_cast<int32_t>(cache_size_.PagesFor(positions));
  const int32_t* row = PagesOf(slot);
  for (; assigned_[slot] > pages; --assigned_[slot]) Drop(row[assigned_[slot] - 1]);
}

template <typename Visit>
void StatePool::VisitImage(int slot, int64_t fed, int replay, Visit visit) const {
  int64_t at = 0;
  const auto add = [&](const void* part, int64_t bytes) {
    visit(part, at, bytes);
    at += bytes;
  };
  const int32_t* pages = PagesOf(slot);
  for (const Layer& layer : layers_) {
    if (layer.key_values.keys != nullptr) {
      const auto& [keys, values, layout] = layer.key_values;
      for (int64_t i = 0; i < cache_size_.PagesFor(fed); ++i) {
        add(keys + pages[i] * layout.key_bytes, layout.key_bytes);
        add(values + pages[i] * layout.value_bytes, layout.value_bytes);
      }
      continue;
    }
    if (layer.recurrent.data == nullptr) continue;
    constexpr int64_t kFloat = sizeof(float);
    const kernels::RecurrentSlotLayout& layout = layer.recurrent.layout;
    const float* block = layer.recurrent.slot(slot);
    add(block + layout.checkpoint, layer.state_floats * kFloat);
    for (int64_t position = fed - layer.inputs; position < fed; ++position) {
      const float* input = nullptr;
      if (position >= 0)
        input = block + layout.ring + position % layout.ring_rows * layer.input_floats;
      add(input, layer.input_floats * kFloat);
    }
    add(block + layout.replay, replay * layout.replay_row * kFloat);
  }
}

void StatePool::Save(int slot, int64_t fed, int replay, std::byte* image) {
  ZeroWhereStale(slot);
  VisitImage(slot, fed, replay, [&](const void* part, int64_t at, int64_t bytes) {
    if (part == nullptr) {
      std::fill_n(image + at, bytes, std::byte{0});
    } else if (bytes > 0) {
      backend_.Read(image + at, part, bytes);
    }
  });
}

// Nothing of a slot is read before it is written but what the image has, and inputs before the
// beginning of a text.
void StatePool::Restore(int slot, int64_t fed, int replay, const std::byte* image) {
  const bool has_all_inputs =
      std::all_of(layers_.begin(), layers_.end(), [&](const Layer& l) { return l.inputs <= fed; });
  if (!has_all_inputs) ZeroWhereStale(slot);
  stale_[slot] = 0;
  VisitImage(slot, fed, replay, [&](const void* part, int64_t at, int64_t bytes) {
    if (part != nullptr && bytes > 0) backend_.Write(const_cast<void*>(part), image + at, bytes);
  });
}

void StatePool::Change(int slot, int64_t begin, int64_t end) {
  if (begin == end) return;
  Range& changed = changed_[slot];
  if (changed.begin == changed.end) changed = {begin, end};
  changed = {std::min(changed.begin, begin), std::max(changed.end, end)};
}

void StatePool::Upload() {
  for (int slot = 0; slot < shape_.slots; ++slot) {
    ZeroWhereStale(slot);
    Range& changed = changed_[slot];
    if (changed.begin == changed.end) continue;
    const int64_t first = int64_t{slot} * pages_per_sequence_ + changed.begin;
    backend_.Write(device_table_.as<int32_t>() + first, table_.as<int32_t>() + first,
                   (changed.end - changed.begin) * sizeof(int32_t));
    changed = {};
  }
}

}  // namespace mambad
