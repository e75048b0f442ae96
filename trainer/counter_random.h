// Random numbers that are a pure function of (key, counter): any of them can be had without those
// before it, so that an order drawn from them is the same after every resume and on every machine.

#ifndef MAMBAD_TRAINER_COUNTER_RANDOM_H_
#define MAMBAD_TRAINER_COUNTER_RANDOM_H_

#include <cstdint>

namespace mambad::trainer {

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection whose every output bit depends
// on every input bit.
inline uint64_t MixBits(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
  return value ^ (value >> 31);
}

class CounterRandom {
 public:
  // Streams with different (seed, stream) have nothing to do with each other.
  CounterRandom(uint64_t seed, uint64_t stream)
      : key_(MixBits(MixBits(seed + 0x9e3779b97f4a7c15ull) ^
                     (stream * 0xd1342543de82ef95ull + 1))) {}

  uint64_t At(uint64_t counter) const {
    return MixBits(MixBits(counter * 0x9e3779b97f4a7c15ull + key_) ^ key_);
  }
  // In [0, bound), bound > 0. Biased by less than bound / 2^64.
  uint64_t Below(uint64_t counter, uint64_t bound) const {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(At(counter)) * bound) >> 64);
  }
  // In [0, 1), 53 bits.
  double Uniform(uint64_t counter) const {
    return static_cast<double>(At(counter) >> 11) * 0x1.0p-53;
  }

 private:
  uint64_t key_;
};

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_COUNTER_RANDOM_H_
