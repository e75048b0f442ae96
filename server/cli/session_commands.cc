// mambactl sessions: what is kept between calls, and how it is moved about.

#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "mambad/v1/session.grpc.pb.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/json_output.h"
#include "server/cli/terminal_text.h"

namespace mambad::cli {
namespace {

constexpr size_t kPieceBytes = 1 << 20;

std::string TierText(const v1::Session& session) {
  switch (session.tier()) {
    case v1::Session::TEXT:
      return "text";
    case v1::Session::SLOT:
      return "slot";
    case v1::Session::HOST:
      return "host";
    case v1::Session::DISK:
      return "disk";
    default:
      return "-";
  }
}

void PrintSession(const v1::Session& session) {
  std::string more;
  if (session.checkpoints_size() > 0)
    absl::StrAppend(&more, ", checkpoints at ", absl::StrJoin(session.checkpoints(), " "));
  if (session.in_use()) absl::StrAppend(&more, ", in use");
  if (!session.exact()) absl::StrAppend(&more, ", not exact");
  std::printf("%s  %s tokens, %s, %s, idle %s%s\n", session.session_id().c_str(),
              GroupDigits(session.position()).c_str(), TierText(session).c_str(),
              ShortBytes(session.state_bytes()).c_str(),
              ShortSeconds(static_cast<double>(session.idle_us()) * 1e-6).c_str(), more.c_str());
}

int ShowSession(const ClientOptions& options, const v1::Session& session) {
  options.json ? PrintJson(session) : PrintSession(session);
  return kExitGood;
}

// One server, as the commands here see it.
class Server {
 public:
  explicit Server(const ClientOptions& options) : connection_(options) {}

  std::optional<int> Open() {
    if (auto failed = connection_.Open()) return failed;
    stub_ = v1::Sessions::NewStub(connection_.channel());
    return std::nullopt;
  }
  const Connection& connection() const { return connection_; }
  v1::Sessions::Stub& stub() const { return *stub_; }

 private:
  Connection connection_;
  std::unique_ptr<v1::Sessions::Stub> stub_;
};

// A call that answers with a session.
template <typename Request>
using Method = grpc::Status (v1::Sessions::Stub::*)(grpc::ClientContext*, const Request&,
                                                    v1::Session*);

template <typename Request>
int CallAndShow(const ClientOptions& options, const Request& request, Method<Request> method) {
  Server server(options);
  if (const auto failed = server.Open()) return *failed;
  grpc::ClientContext context;
  server.connection().Prepare(&context);
  v1::Session session;
  const grpc::Status status = (server.stub().*method)(&context, request, &session);
  return status.ok() ? ShowSession(options, session) : server.connection().Report(status, {});
}

int ListSessions(const ClientOptions& options) {
  Server server(options);
  if (const auto failed = server.Open()) return *failed;
  grpc::ClientContext context;
  server.connection().Prepare(&context);
  v1::ListSessionsResponse answer;
  const grpc::Status status = server.stub().List(&context, {}, &answer);
  if (!status.ok()) return server.connection().Report(status, {});
  for (const v1::Session& session : answer.sessions()) ShowSession(options, session);
  return kExitGood;
}

grpc::Status DeleteAt(const Server& server, const std::string& id) {
  grpc::ClientContext context;
  server.connection().Prepare(&context);
  v1::DeleteSessionRequest request;
  request.set_session_id(id);
  v1::DeleteSessionResponse answer;
  return server.stub().Delete(&context, request, &answer);
}

int Delete(const ClientOptions& options, const std::string& id) {
  Server server(options);
  if (const auto failed = server.Open()) return *failed;
  const grpc::Status status = DeleteAt(server, id);
  return status.ok() ? kExitGood : server.connection().Report(status, {});
}

// Takes a session's record from a server; `take` gets its pieces, until it says false.
grpc::Status ExportFrom(const Server& server, const std::string& id,
                        const std::function<bool(const std::string&)>& take, v1::Session* session) {
  grpc::ClientContext context;
  server.connection().Prepare(&context);
  v1::ExportSessionRequest request;
  request.set_session_id(id);
  auto reader = server.stub().Export(&context, request);
  v1::ExportSessionResponse piece;
  while (reader->Read(&piece)) {
    if (piece.has_session()) *session = piece.session();
    if (take(piece.piece())) continue;
    context.TryCancel();
    break;
  }
  return reader->Finish();
}

// Gives a record to a server; `next` has its pieces, an empty one at the end.
grpc::Status ImportTo(const Server& server, bool other_numerics,
                      const std::function<std::string()>& next, v1::Session* session) {
  grpc::ClientContext context;
  server.connection().Prepare(&context);
  auto writer = server.stub().Import(&context, session);
  v1::ImportSessionRequest piece;
  piece.set_other_numerics(other_numerics);
  do {
    piece.set_piece(next());
  } while (!piece.piece().empty() && writer->Write(piece));
  writer->WritesDone();
  return writer->Finish();
}

int FileProblem(const std::string& path, const char* what) {
  std::fprintf(stderr, "mambactl: %s: %s\n", path.c_str(), what);
  return kExitFailed;
}

int Export(const ClientOptions& options, const std::string& id, const std::string& path) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  if (!file) return ReportBadInput(absl::StrCat(path, ": cannot be written"));
  Server server(options);
  if (const auto failed = server.Open()) return *failed;
  v1::Session session;
  const grpc::Status status = ExportFrom(
      server, id,
      [&](const std::string& piece) {
        return bool(file.write(piece.data(), static_cast<std::streamsize>(piece.size())));
      },
      &session);
  file.close();
  if (!file) return FileProblem(path, "not all could be written");
  return status.ok() ? ShowSession(options, session) : server.connection().Report(status, {});
}

int Import(const ClientOptions& options, const std::string& path, bool other_numerics) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return ReportBadInput(absl::StrCat(path, ": cannot be read"));
  Server server(options);
  if (const auto failed = server.Open()) return *failed;
  v1::Session session;
  std::string piece;
  const grpc::Status status = ImportTo(
      server, other_numerics,
      [&] {
        piece.resize(kPieceBytes);
        file.read(piece.data(), static_cast<std::streamsize>(piece.size()));
        piece.resize(static_cast<size_t>(file.gcount()));
        return piece;
      },
      &session);
  if (file.bad()) return FileProblem(path, "not all could be read");
  return status.ok() ? ShowSession(options, session) : server.connection().Report(status, {});
}

// First it is there, then it is no longer here: when anything fails, it is here still.
int Move(const ClientOptions& options, const std::string& id, const std::string& to,
         bool other_numerics) {
  ClientOptions target_options = options;
  target_options.address = to;
  Server source(options), target(target_options);
  if (const auto failed = source.Open()) return *failed;
  if (const auto failed = target.Open()) return *failed;
  std::string record;
  v1::Session session;
  grpc::Status status = ExportFrom(
      source, id,
      [&](const std::string& piece) {
        record += piece;
        return true;
      },
      &session);
  if (!status.ok()) return source.connection().Report(status, {});
  size_t at = 0;
  v1::Session moved;
  status = ImportTo(
      target, other_numerics,
      [&] {
        std::string piece = record.substr(at, kPieceBytes);
        at += piece.size();
        return piece;
      },
      &moved);
  if (!status.ok()) return target.connection().Report(status, {});
  status = DeleteAt(source, id);
  if (!status.ok()) {
    std::fprintf(stderr, "mambactl: it is at %s now, as %s, and still here:\n", to.c_str(),
                 moved.session_id().c_str());
    return source.connection().Report(status, {});
  }
  return ShowSession(options, moved);
}

struct SessionFlags {
  std::string id, file, to;
  int64_t position = 0;
  bool other_numerics = false;
};

template <typename Request>
Request Named(const SessionFlags& flags) {
  Request request;
  request.set_session_id(flags.id);
  return request;
}

}  // namespace

void AddSessionCommands(CLI::App* app, const ClientOptions* options, Command* chosen) {
  CLI::App* family = app->add_subcommand("sessions", "Texts that the server keeps between calls");
  family->require_subcommand(1);
  auto flags = std::make_shared<SessionFlags>();
  const auto add = [&](const char* name, const char* what, std::function<int()> run) {
    CLI::App* command = family->add_subcommand(name, what);
    command->callback([chosen, run = std::move(run)] { *chosen = run; });
    return command;
  };
  const auto with_id = [&](CLI::App* command) {
    command->add_option("ID", flags->id, "The session")->required();
    return command;
  };
  const auto numerics = [&](CLI::App* command) {
    command->add_flag("--other-numerics", flags->other_numerics,
                      "Also of a server that computes by other rules; it is not exact then");
  };
  add("list", "All of yours", [=] { return ListSessions(*options); });
  with_id(add("get", "One of them", [=] {
    return CallAndShow(*options, Named<v1::GetSessionRequest>(*flags), &v1::Sessions::Stub::Get);
  }));
  with_id(add("delete", "Ends one", [=] { return Delete(*options, flags->id); }));
  with_id(add("fork", "Makes another one like it", [=] {
    return CallAndShow(*options, Named<v1::ForkSessionRequest>(*flags), &v1::Sessions::Stub::Fork);
  }));
  with_id(add("checkpoint", "Marks where it stands, to come back to", [=] {
    return CallAndShow(*options, Named<v1::CheckpointSessionRequest>(*flags),
                       &v1::Sessions::Stub::Checkpoint);
  }));
  CLI::App* rewind = with_id(add("rewind", "Takes back what came after a checkpoint", [=] {
    auto request = Named<v1::RewindSessionRequest>(*flags);
    request.set_position(flags->position);
    return CallAndShow(*options, request, &v1::Sessions::Stub::Rewind);
  }));
  rewind->add_option("POSITION", flags->position, "The checkpoint's")->required();
  CLI::App* to_file = with_id(add("export", "Writes one to a file",
                                  [=] { return Export(*options, flags->id, flags->file); }));
  to_file->add_option("FILE", flags->file, "Where to")->required();
  CLI::App* from_file = add("import", "Makes one of a file that export wrote",
                            [=] { return Import(*options, flags->file, flags->other_numerics); });
  from_file->add_option("FILE", flags->file, "Which")->required();
  numerics(from_file);
  CLI::App* move = with_id(add("move", "Brings one to another server", [=] {
    return Move(*options, flags->id, flags->to, flags->other_numerics);
  }));
  move->add_option("--to", flags->to, "The other server")->type_name("HOST:PORT")->required();
  numerics(move);
  family->footer(
      "generate --keep-session makes a session, generate --session ID goes on with it.\n\n"
      "  mambactl generate --prompt 'Once upon a time' --max-tokens 40 --keep-session\n"
      "  mambactl sessions list");
}

}  // namespace mambad::cli
