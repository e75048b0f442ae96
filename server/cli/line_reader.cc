#include "server/cli/line_reader.h"

#include <histedit.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cwchar>

namespace mambad::cli {
namespace {

constexpr int kHistoryLines = 1000;

enum class Ready { kInput, kInterrupt, kContinued };

std::atomic<bool> was_continued{false};
void RememberContinued(int) { was_continued.store(true); }

// Waits for a byte of standard input or an interrupt.
Ready WaitForInput(Interrupts* interrupts) {
  for (;;) {
    pollfd entries[2] = {{interrupts->descriptor(), POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    const int ready = poll(entries, 2, -1);
    if (was_continued.exchange(false)) return Ready::kContinued;
    if (ready < 0) continue;
    if (entries[0].revents != 0 && interrupts->Take()) return Ready::kInterrupt;
    if (entries[1].revents != 0) return Ready::kInput;
  }
}

class PlainReader final : public LineReader {
 public:
  PlainReader(bool prompts, Interrupts* interrupts) : prompts_(prompts), interrupts_(interrupts) {}

  TypedLine Read(const std::string& prompt) override {
    if (prompts_) std::fputs(prompt.c_str(), stderr);
    for (;;) {
      const size_t end = pending_.find('\n', searched_);
      if (end != std::string::npos) return {TypedLine::Kind::kLine, TakeLine(end)};
      searched_ = pending_.size();
      if (WaitForInput(interrupts_) == Ready::kInterrupt) {
        std::string typed;
        typed.swap(pending_);
        searched_ = 0;
        return {TypedLine::Kind::kInterrupted, typed};
      }
      char buffer[65536];
      const ssize_t got = read(STDIN_FILENO, buffer, sizeof(buffer));
      if (got > 0) {
        pending_.append(buffer, static_cast<size_t>(got));
      } else if (got == 0 || (errno != EINTR && errno != EAGAIN)) {
        if (pending_.empty()) return {TypedLine::Kind::kEnd, ""};
        return {TypedLine::Kind::kLine, TakeLine(pending_.size())};  // a last line without a break
      }
    }
  }

 private:
  std::string TakeLine(size_t end) {
    std::string line = pending_.substr(0, end);
    pending_.erase(0, end + 1);
    searched_ = 0;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    return line;
  }

  const bool prompts_;
  Interrupts* const interrupts_;
  std::string pending_;
  size_t searched_ = 0;  // no line break before
};

class EditingReader final : public LineReader {
 public:
  explicit EditingReader(Interrupts* interrupts) : interrupts_(interrupts) {
    HistEvent event;
    history_ = history_init();
    history(history_, &event, H_SETSIZE, kHistoryLines);
    history(history_, &event, H_SETUNIQUE, 1);
    editor_ = el_init("mambactl", stdin, stderr, stderr);
    el_set(editor_, EL_CLIENTDATA, this);
    el_set(editor_, EL_PROMPT, &Prompt);
    el_set(editor_, EL_GETCFN, &ReadCharacter);
    el_set(editor_, EL_EDITOR, "emacs");
    el_set(editor_, EL_HIST, history, history_);
    el_set(editor_, EL_SIGNAL, 0);  // its handlers would send signals to the whole process group
    BindKeys();
    struct sigaction action {};
    action.sa_handler = RememberContinued;
    sigaction(SIGCONT, &action, nullptr);
  }

  ~EditingReader() override {
    signal(SIGCONT, SIG_DFL);
    el_end(editor_);
    history_end(history_);
  }

  TypedLine Read(const std::string& prompt) override {
    prompt_ = prompt;
    interrupted_ = false;
    std::fflush(stdout);
    // Before the prompt is shown, and not after it as el_gets would: what is typed at the sight of
    // the prompt must find the terminal as the editor needs it, or a Ctrl-D is lost.
    el_set(editor_, EL_PREP_TERM, 1);
    el_resize(editor_);
    int length = 0;
    const char* line = el_gets(editor_, &length);
    if (interrupted_) {
      std::fputs("\n", stderr);
      return {TypedLine::Kind::kInterrupted, typed_};
    }
    if (line == nullptr || length <= 0) {
      std::fputs("\n", stderr);
      return {TypedLine::Kind::kEnd, ""};
    }
    std::string text(line, static_cast<size_t>(length));
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
    HistEvent event;
    if (!text.empty()) history(history_, &event, H_ENTER, text.c_str());
    return {TypedLine::Kind::kLine, text};
  }

 private:
  // What keyboards of today send, beside what the terminal's description says.
  void BindKeys() {
    constexpr const char* kKeys[][2] = {
        {"^R", "em-inc-search-prev"},       {"^W", "ed-delete-prev-word"},
        {"\033[3~", "ed-delete-next-char"}, {"\033[H", "ed-move-to-beg"},
        {"\033[F", "ed-move-to-end"},       {"\033[1~", "ed-move-to-beg"},
        {"\033[4~", "ed-move-to-end"},      {"\033[1;5C", "em-next-word"},
        {"\033[1;5D", "ed-prev-word"},
    };
    for (const auto& [key, command] : kKeys) el_set(editor_, EL_BIND, key, command, nullptr);
  }

  static EditingReader* Of(EditLine* editor) {
    void* reader = nullptr;
    el_get(editor, EL_CLIENTDATA, &reader);
    return static_cast<EditingReader*>(reader);
  }

  static char* Prompt(EditLine* editor) { return Of(editor)->prompt_.data(); }

  // One character, from bytes in the program's encoding. 1: read, 0: end of the input, -1: error.
  static int ReadCharacter(EditLine* editor, wchar_t* character) {
    EditingReader* self = Of(editor);
    std::mbstate_t state{};
    for (;;) {
      switch (WaitForInput(self->interrupts_)) {
        case Ready::kInterrupt: {
          const LineInfo* line = el_line(editor);
          self->typed_.assign(line->buffer, line->lastchar);
          self->interrupted_ = true;
          return -1;
        }
        case Ready::kContinued:  // whoever had the terminal meanwhile has changed its mode
          el_set(editor, EL_PREP_TERM, 1);
          el_set(editor, EL_REFRESH);
          continue;
        case Ready::kInput:
          break;
      }
      char byte = 0;
      const ssize_t got = read(STDIN_FILENO, &byte, 1);
      if (got == 0) return 0;
      if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (got < 0) return -1;
      const size_t used = std::mbrtowc(character, &byte, 1, &state);
      if (used == static_cast<size_t>(-2)) continue;  // more bytes are to come
      if (used == static_cast<size_t>(-1)) {
        state = {};
        continue;  // no character of this encoding: as if it had not been typed
      }
      return 1;
    }
  }

  Interrupts* const interrupts_;
  History* history_ = nullptr;
  EditLine* editor_ = nullptr;
  std::string prompt_, typed_;
  bool interrupted_ = false;
};

}  // namespace

std::unique_ptr<LineReader> MakeLineReader(bool is_terminal, Interrupts* interrupts) {
  if (is_terminal) return std::make_unique<EditingReader>(interrupts);
  return std::make_unique<PlainReader>(isatty(STDIN_FILENO) != 0, interrupts);
}

}  // namespace mambad::cli
