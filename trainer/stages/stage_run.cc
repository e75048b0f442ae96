#include "trainer/stages/stage_run.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/full.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#ifdef MAMBAD_TRAINING_CUDA
#include <cuda_runtime_api.h>
#endif

#include <chrono>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "kernels/cpu/machine.h"
#include "trainer/free_cores.h"
#include "trainer/modules/trained_parameters.h"
#include "trainer/report.h"
#include "trainer/stages/run_inputs.h"
#include "trainer/stop_signal.h"
#include "trainer/text_file.h"

namespace mambad::trainer {
namespace {

namespace filesystem = std::filesystem;

std::optional<std::string> Environment(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

// Why no GPU can be taken: what was built is asked first, then the driver.
std::string WhyNoCuda() {
#ifndef MAMBAD_TRAINING_CUDA
  return "this trainer was built without CUDA: configure where a CUDA compiler is, with "
         "-DMAMBAD_CUDA=ON";
#else
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
      return "no GPU is visible: no NVIDIA driver is loaded on this machine or in this container";
    return absl::StrFormat("the NVIDIA driver is too old: it is for CUDA %d.%d, expected %d.%d",
                           driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000,
                           CUDART_VERSION % 1000 / 10);
  }
  if (error != cudaSuccess) return std::string("no GPU is visible: ") + cudaGetErrorString(error);
  if (devices == 0) return "no GPU is visible";
  return "the LibTorch that this trainer was linked with has no CUDA (libtorch_cuda.so)";
#endif
}

bool WantsCuda(DeviceChoice choice) {
  if (choice == DeviceChoice::kCpu) return false;
  const bool there = at::hasCUDA() && at::detail::getCUDAHooks().deviceCount() > 0;
  if (!there && choice == DeviceChoice::kCuda) {
    throw std::runtime_error("device: cuda: " + WhyNoCuda());
  }
  return there;
}

at::Device ChooseDevice(bool cuda, const Rendezvous& rendezvous) {
  if (!cuda) return at::Device(at::kCPU);
  const int devices = at::detail::getCUDAHooks().deviceCount();
  const auto index = static_cast<c10::DeviceIndex>(OwnDevice(rendezvous, devices));
  at::globalContext().lazyInitDevice(at::kCUDA);
  c10::impl::getDeviceGuardImpl(at::kCUDA)->setDevice(at::Device(at::kCUDA, index));
  return at::Device(at::kCUDA, index);
}

at::ScalarType ChooseCompute(ComputeType choice, bool cuda) {
  if (choice == ComputeType::kFloat32) return at::kFloat;
  if (choice == ComputeType::kBFloat16) {
    if (!cuda) throw std::runtime_error("compute: bf16 needs device: cuda");
    return at::kBFloat16;
  }
  return cuda ? at::kBFloat16 : at::kFloat;
}

// Of the GPU, or this process's part of the machine's memory.
double FreeBytes(const StageRun& run) {
#ifdef MAMBAD_TRAINING_CUDA
  if (run.device.is_cuda()) {
    size_t free = 0, whole = 0;
    if (cudaMemGetInfo(&free, &whole) == cudaSuccess) return static_cast<double>(free);
  }
#endif
  return kernels::FreeMachineBytes() / run.local_processes;
}

// Says what is kept.
[[noreturn]] void StopBySignal(const StageRun& run, const TrainResult& result,
                               const std::string& folder) {
  const std::string states = run.folder + (folder.empty() ? "" : "/" + folder) + "/states";
  std::string words = absl::StrFormat("%s: stopped by %s at step %d%s; ", run.command,
                                      SignalName(result.stop_signal), result.steps,
                                      folder.empty() ? "" : " of " + folder);
  if (result.saved_step == result.steps) {
    words +=
        absl::StrFormat("its state is saved in %s: the same command goes on from there", states);
  } else if (result.saved_step > 0) {
    words += absl::StrFormat(
        "its loss is high, so the newest state in %s is of step %d: the same command goes on from "
        "there",
        states, result.saved_step);
  } else {
    words += "its loss is high, so no state was saved: the same command begins anew";
  }
  Say(run, words);
  throw Stopped(result.stop_signal, words);
}

constexpr std::chrono::seconds kBetweenLines{30};

// Says every now and then how far a text has become tokens: a large one takes hours.
std::function<void(int64_t, int64_t)> TokensWatch(const StageRun& run, const std::string& name) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  return [&run, name, begin, told = begin](int64_t documents, int64_t tokens) mutable {
    const Clock::time_point now = Clock::now();
    if (now - told < kBetweenLines) return;
    told = now;
    const double seconds = std::chrono::duration<double>(now - begin).count();
    Say(run, absl::StrFormat("%s: %s: reading: %d documents, %d tokens, %.0f tokens/s", run.command,
                             name, documents, tokens, static_cast<double>(tokens) / seconds));
  };
}

}  // namespace

StageRun JoinStageRun(const std::string& command, const RunConfig& config) {
  StageRun run;
  run.command = command;
  run.folder = config.output;
  run.seed = static_cast<uint64_t>(config.seed);
  run.threads_are_set = config.threads > 0;
  if (run.threads_are_set) at::set_num_threads(static_cast<int>(config.threads));
  const bool cuda = WantsCuda(config.device);
  Rendezvous rendezvous = ReadRendezvous(Environment);
  run.device = ChooseDevice(cuda, rendezvous);
  if (cuda) rendezvous.local_rank = run.device.index();
  run.compute = ChooseCompute(config.compute, cuda);
  run.processes = JoinProcessGroup(rendezvous, cuda);
  run.local_processes = rendezvous.local_size;
  run.overwrite = config.overwrite;
  if (!run.first()) run.progress = nullptr;
  if (!cuda && run.first() && run.threads_are_set && at::get_num_threads() > 1) {
    const std::string advice = ThreadAdvice(at::get_num_threads(), LookAtCores());
    if (!advice.empty()) Say(run, command + ": " + advice);
  }
  InFirstProcess(run, [&] {
    run.own_folder = std::make_unique<RunFolder>(run.folder);
    run.goes_on = run.own_folder->goes_on();
  });
  return run;
}

void KeepSettings(StageRun* run, const DescribeFunction& describe) {
  InFirstProcess(*run, [&] {
    const std::string told = run->own_folder->KeepSettings(run->command, describe, run->overwrite);
    if (!told.empty()) Say(*run, run->command + ": " + told);
    run->goes_on = run->own_folder->goes_on();
  });
}

StageRun OpenStageRun(const std::string& command, const RunConfig& config,
                      const DescribeFunction& describe) {
  StageRun run = JoinStageRun(command, config);
  KeepSettings(&run, describe);
  return run;
}

void InFirstProcess(const StageRun& run, const std::function<void()>& work) {
  std::exception_ptr failure;
  std::string told;
  if (run.first()) {
    try {
      work();
    } catch (const std::exception& error) {
      failure = std::current_exception();
      told = std::string("stopped, because the first process was: ") + error.what();
    }
  }
  told = run.processes->FromFirst(told);
  if (failure) std::rethrow_exception(failure);
  if (!told.empty()) throw std::runtime_error(told);
}

void Say(const StageRun& run, const std::string& words) {
  if (run.progress != nullptr) std::fprintf(run.progress, "%s\n", words.c_str());
}

std::unique_ptr<LanguageModel> LoadModel(const StageRun& run, const std::string& key,
                                         const std::string& directory) {
  std::unique_ptr<LanguageModel> model;
  try {
    model = LanguageModel::Load(directory, run.device, run.compute);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(key + ": " + error.what());
  }
  InFirstProcess(run, [&] { RequireSameInput(run, key, ModelFingerprint(directory)); });
  return model;
}

void SaveModel(const StageRun& run, const LanguageModel& model, const std::string& text_source,
               StoredType stored, const std::map<std::string, at::Tensor>& masters,
               const std::string& name) {
  InFirstProcess(run, [&] {
    const std::string finished = run.folder + "/" + name, unfinished = finished + ".unfinished";
    std::error_code error;
    filesystem::remove_all(unfinished, error);
    model.Save(unfinished,
               stored == StoredType::kBFloat16 ? checkpoint::StorageType::kBFloat16
                                               : checkpoint::StorageType::kFloat32,
               text_source, masters);
    filesystem::remove_all(finished, error);
    filesystem::rename(unfinished, finished, error);
    if (error) throw std::runtime_error(finished + ": cannot be written: " + error.message());
    Say(run, run.command + ": wrote " + finished);
  });
}

void CheckVocabularies(const std::string& first_key, const std::string& first_directory,
                       const LanguageModel& first, const std::string& second_key,
                       const std::string& second_directory, const LanguageModel& second) {
  const int first_size = first.config().vocabulary, second_size = second.config().vocabulary;
  if (first_size != second_size) {
    throw std::runtime_error(absl::StrFormat(
        "%s and %s have different vocabularies: %d tokens in %s, %d in %s", first_key, second_key,
        first_size, first_directory, second_size, second_directory));
  }
  const auto first_words = text::OpenTokenizer(first_directory);
  const auto second_words = text::OpenTokenizer(second_directory);
  if (!first_words.ok() || !second_words.ok()) return;
  for (text::TokenId id = 0; id < first_size; ++id) {
    const std::string one = (*first_words)->IdToToken(id), other = (*second_words)->IdToToken(id);
    if (one == other) continue;
    throw std::runtime_error(absl::StrFormat(
        "%s and %s have different vocabularies: token %d is \"%s\" in %s and \"%s\" in %s",
        first_key, second_key, id, one, first_directory, other, second_directory));
  }
}

TokenStore OpenText(const StageRun& run, const DataConfig& data, const std::string& name,
                    const std::vector<std::string>& files, const std::string& model_directory,
                    int64_t vocabulary) {
  TokenStoreSource source;
  source.files = files;
  source.model_directory = model_directory;
  source.options.separator = data.separator;
  source.options.skip_malformed = data.skip_malformed;
  source.options.prompts_are_chat = data.prompts_are_chat;
  source.options.append_end_of_text = data.append_end_of_text;
  source.options.train_on_prompts = data.loss_on == TargetTokens::kAll;
  source.options.maximum_tokens = data.maximum_tokens;
  source.watch = TokensWatch(run, name);
  const std::string directory =
      (data.tokens.empty() ? run.folder + "/tokens" : data.tokens) + "/" + name;
  InFirstProcess(run, [&] {
    const TokenStore made = OpenOrMakeTokenStore(directory, source);
    RequireSameInput(run, name, made.index().source_fingerprint);
  });
  TokenStore store = TokenStore::Open(directory);
  const TokenStoreIndex& index = store.index();
  if (index.vocabulary_size > vocabulary) {
    throw std::runtime_error(absl::StrFormat("the tokenizer of %s has %d tokens, the model %d",
                                             model_directory, index.vocabulary_size, vocabulary));
  }
  Say(run, absl::StrFormat("%s: %s: %d documents, %d tokens, %d of them count%s", run.command, name,
                           index.documents, index.tokens, index.trained_tokens,
                           index.skipped_records == 0
                               ? ""
                               : absl::StrFormat("; %d malformed records left out, the first: %s",
                                                 index.skipped_records, index.first_skipped)));
  return store;
}

std::string TextSource(const StageRun& run, const std::string& directory,
                       const std::string& chat_template) {
  if (chat_template.empty()) return directory;
  const std::string own = run.folder + "/text";
  InFirstProcess(run, [&] {
    std::ifstream in(chat_template, std::ios::binary);
    std::stringstream source;
    source << in.rdbuf();
    if (!in) throw std::runtime_error("chat_template: " + chat_template + ": cannot be read");
    const auto parsed = text::ChatTemplate::Parse(source.str());
    if (!parsed.ok()) {
      throw std::runtime_error("chat_template: " + chat_template + ": " +
                               std::string(parsed.status().message()));
    }
    filesystem::create_directories(own);
    CopyTextFiles(directory, own);
    WriteText(own + "/chat_template.jinja", source.str());
  });
  return own;
}

StageText OpenStageText(const StageRun& run, const DataConfig& data, const LoopConfig& loop,
                        const std::string& model_directory, int64_t vocabulary) {
  StageText text;
  text.train = std::make_unique<TokenStore>(
      OpenText(run, data, "train", data.train, model_directory, vocabulary));
  if (data.valid.empty()) return text;
  text.valid = std::make_unique<TokenStore>(
      OpenText(run, data, "valid", data.valid, model_directory, vocabulary));
  text.held_out = std::make_unique<HeldOut>(
      text.valid.get(), HeldOutOptions{data.row_tokens, loop.evaluate_rows, loop.micro_batch},
      run.processes.get());
  return text;
}

PlannedRun PlanOf(const StageRun& run, const DataConfig& data, const LoopConfig& loop) {
  PlannedRun plan;
  plan.processes = run.processes->size();
  plan.row_tokens = data.row_tokens;
  plan.micro_batch = loop.micro_batch;
  plan.recompute = loop.activation_checkpointing;
  plan.half_precision = run.compute == at::kBFloat16;
  return plan;
}

void CheckMemory(const StageRun& run, const PlannedRun& plan) {
  std::string shortage;
  try {
    RequireMemory(plan, FreeBytes(run), run.device.str());
  } catch (const std::runtime_error& error) {
    shortage = error.what();
  }
  // Nobody takes memory before all have looked, and nobody waits for one that is gone.
  const at::Tensor shortages = at::full({1}, shortage.empty() ? 0.0 : 1.0,
                                        at::TensorOptions().device(run.device).dtype(at::kFloat));
  run.processes->AllReduceSum(shortages);
  if (!shortage.empty()) throw std::runtime_error(shortage);
  if (shortages.item<float>() > 0) {
    throw std::runtime_error("stopped, because another process has too little memory");
  }
}

DatasetOptions TrainingOrder(const StageRun& run, const DataConfig& data, int64_t part) {
  DatasetOptions options;
  options.row_tokens = data.row_tokens;
  options.seed = run.seed + static_cast<uint64_t>(part);
  return options;
}

TrainLoopOptions LoopOptions(const StageRun& run, const LoopConfig& loop, const std::string& title,
                             const std::string& folder) {
  TrainLoopOptions options;
  options.title = title;
  options.directory = folder.empty() ? run.folder : run.folder + "/" + folder;
  options.steps = loop.steps;
  options.micro_batch = loop.micro_batch;
  options.accumulation = loop.accumulation;
  options.schedule = {loop.steps, std::min(loop.WarmupSteps(), loop.steps), loop.final_fraction};
  options.log_every = loop.log_every;
  options.evaluate_every = loop.evaluate_every;
  options.save_every = loop.save_every;
  options.save_seconds = loop.save_seconds;
  options.keep_states = loop.keep_states;
  options.most_seconds = loop.most_seconds;
  options.started = run.started;
  options.divergence_factor = loop.divergence_factor;
  options.wants_masters = loop.stored == StoredType::kFloat32;
  options.progress = run.progress;
  return options;
}

Optimizer OptimizerOf(const StageRun& run, const LanguageModel& model,
                      const OptimizerConfig& config, double rest_learning_rate) {
  const AdamOptions adam = {config.beta1, config.beta2, config.epsilon, config.clip_norm};
  return Optimizer(
      TrainedGroups(model, {config.learning_rate, rest_learning_rate, config.weight_decay}), adam,
      run.processes.get());
}

bool FinishPart(const StageRun& run, const TrainResult& result, const LanguageModel& model,
                const std::string& text_source, StoredType stored, const std::string& folder) {
  if (result.stop_signal != 0) StopBySignal(run, result, folder);
  if (!result.finished) {
    Say(run, absl::StrFormat("%s: stopped in time at step %d; the same command goes on from there",
                             run.command, result.steps));
    return false;
  }
  SaveModel(run, model, text_source, stored, result.masters,
            folder.empty() ? "model" : folder + "/model");
  return true;
}

void FinishStage(const StageRun& run, const TrainResult& result, const LanguageModel& model,
                 const std::string& text_source, StoredType stored) {
  if (!FinishPart(run, result, model, text_source, stored, "")) return;
  InFirstProcess(run, [&] { Say(run, run.command + ": wrote " + WriteRunReport(run.folder)); });
}

}  // namespace mambad::trainer
