// Answers on the terminal: text on standard output as it comes, what is told about it on standard
// error, so that the text can be piped.

#ifndef MAMBAD_SERVER_CLI_ANSWER_PRINTER_H_
#define MAMBAD_SERVER_CLI_ANSWER_PRINTER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "mambad/v1/generation.pb.h"
#include "server/cli/client_options.h"

namespace mambad::cli {

// How an answer ended, its tokens, speed and drafts, and with what seed it was drawn: one line in
// brackets. `sample`: its number from 1, 0 where there is one answer only.
std::string StatusLine(const v1::Completion& completion, const v1::GenerateRequest& request,
                       const v1::GetModelInfoResponse& info, int sample);

// A line for people on standard error, dimmed where the terminal can.
void PrintNote(const ClientOptions& options, const std::string& line);

class AnswerPrinter {
 public:
  // All of them outlive the printer.
  AnswerPrinter(const ClientOptions& options, const v1::GenerateRequest& request,
                const v1::GetModelInfoResponse& info);

  // The next message of a stream. One answer is printed as it comes; several are gathered, and
  // printed whole in the order of their indices.
  void Add(const v1::GenerateResponse& message);
  // What GenerateOnce answered, all samples.
  void AddWhole(const v1::GenerateResponse& answer);
  // Ends a line that the text has begun. For an answer that breaks off; Add does it at its end.
  void EndLine();

  bool begun() const { return begun_; }                              // something has come
  const v1::GenerateResponse& first() const { return samples_[0]; }  // sample 0, as far as it came
  const std::vector<v1::GenerateResponse>& samples() const { return samples_; }  // likewise

 private:
  void Gather(const v1::GenerateResponse& message);
  void PrintText(const v1::GenerateResponse& part);
  void PrintEnd(const v1::GenerateResponse& sample);
  void PrintFinished();

  const ClientOptions& options_;
  const v1::GenerateRequest& request_;
  const v1::GetModelInfoResponse& info_;
  std::vector<v1::GenerateResponse> samples_;
  size_t next_ = 0;  // to be printed, of several
  bool begun_ = false, in_line_ = false;
};

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_ANSWER_PRINTER_H_
