// Load on one gRPC method, counted by grpc-status. Knows no protos: requests are bytes from a file.
//
//   grpc_load --target HOST:PORT --method /package.Service/Method --payloads FILE --mode closed|open|stream ...
//
// closed: `--in-flight` calls at once over `--connections`, each begun when one ends.
// open:   calls begin at the times of a Poisson process of `--rate`, whatever the server does; latency counts from when a
//         call was to begin, so that a stall counts against all that was due in it (no coordinated omission).
// stream: one bidirectional stream on each connection, up to `--in-flight` messages unanswered on each.
//
// Prints JSON: see samples.h. Calls that were to begin before the end of the warm-up are not counted.
#include <atomic>
#include <cmath>
#include <deque>
#include <iostream>
#include <memory>
#include <random>
#include <thread>

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <sys/prctl.h>
#include <time.h>

#include "options.h"
#include "samples.h"

namespace {

// What came back is what was asked for, to float precision.
bool IsWrong(const Expectation& expected, size_t payload, const grpc::ByteBuffer& answer) {
  if (expected.values.empty()) return false;
  std::vector<grpc::Slice> slices;
  if (!answer.Dump(&slices).ok()) return true;
  std::string bytes;
  for (const grpc::Slice& slice : slices) bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  const size_t width = expected.is_double ? sizeof(double) : sizeof(float);
  const long at = expected.offset < 0 ? static_cast<long>(bytes.size()) + expected.offset : expected.offset;
  if (at < 0 || at + width > bytes.size()) return true;
  double wide;
  float narrow;
  std::memcpy(&narrow, bytes.data() + at, sizeof narrow);
  if (expected.is_double) std::memcpy(&wide, bytes.data() + at, sizeof wide);
  const double got = expected.is_double ? wide : narrow, want = expected.values[payload];
  return !(std::abs(got - want) <= 1e-5 * std::max(1.0, std::abs(want)));
}

void SleepUntil(double when) {
  timespec time{static_cast<time_t>(when), static_cast<long>((when - std::floor(when)) * 1e9)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr) == EINTR) {
  }
}

class Load {
 public:
  explicit Load(Options options) : options_(std::move(options)) {
    for (int i = 0; i < options_.connections; ++i) {
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // else all channels share one connection
      auto channel = grpc::CreateCustomChannel(options_.target, grpc::InsecureChannelCredentials(), arguments);
      if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10)))
        throw std::runtime_error("cannot connect to " + options_.target);
      stubs_.push_back(std::make_unique<grpc::GenericStub>(channel));
    }
  }

  void Run() {
    begin_ = Now() + options_.warm_up_s;
    end_ = begin_ + options_.seconds;
    if (options_.mode == "closed") {
      for (int i = 0; i < options_.in_flight; ++i) Start(Now());
      Poll();
    } else if (options_.mode == "open") {
      sending_ = true;
      std::thread sender([this] { SendAtTimes(); });
      Poll();
      sender.join();
    } else if (options_.mode == "stream") {
      for (int i = 0; i < options_.connections; ++i) StartStream(i);
      PollStreams();
    } else {
      throw std::runtime_error("no such mode: " + options_.mode);
    }
    for (int i = 0; i < unsent_; ++i) samples_.Add({end_, 0, 0, kUnsent, 0});
    samples_.Print(begin_, options_.seconds, ended_);
    if (!options_.samples.empty()) samples_.Dump(options_.samples);
  }

 private:
  struct Call {
    grpc::ClientContext context;
    grpc::ByteBuffer answer;
    grpc::Status status;
    std::unique_ptr<grpc::ClientAsyncResponseReader<grpc::ByteBuffer>> reader;
    size_t payload;
    double due, began;
  };

  struct Stream {
    struct Tag {
      Stream* stream;
      enum Kind { kStart, kWrite, kRead, kDone, kFinish } kind;
    };
    struct Sent {
      size_t payload;
      double at;
    };
    Tag start{this, Tag::kStart}, write{this, Tag::kWrite}, read{this, Tag::kRead}, done{this, Tag::kDone},
        finish{this, Tag::kFinish};
    grpc::ClientContext context;
    std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call;
    grpc::ByteBuffer answer;
    grpc::Status status;
    std::deque<Sent> waiting;
    bool writing = false, closed = false;
  };

  void Prepare(grpc::ClientContext* context) {
    for (const auto& [key, value] : options_.metadata) context->AddMetadata(key, value);
    if (options_.deadline_ms > 0)
      context->set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(options_.deadline_ms));
  }

  void Start(double due) {
    auto* call = new Call;
    const size_t number = started_++;
    call->payload = number % options_.payloads.size();
    call->due = due;
    call->began = Now();
    Prepare(&call->context);
    ++waiting_;
    call->reader = stubs_[number % stubs_.size()]->PrepareUnaryCall(&call->context, options_.method,
                                                                    options_.payloads[call->payload], &queue_);
    call->reader->StartCall();
    call->reader->Finish(&call->answer, &call->status, call);
  }

  void SendAtTimes() {
    prctl(PR_SET_TIMERSLACK, 1);
    std::mt19937_64 random(options_.seed);
    std::exponential_distribution<double> gap(options_.rate);
    for (double due = Now() + gap(random); due < end_; due += gap(random)) {
      SleepUntil(due);
      if (waiting_ < options_.max_waiting) Start(due);
      else if (due >= begin_) ++unsent_;
    }
    sending_ = false;
  }

  void Record(double due, double began, int status, bool wrong) {
    const double now = Now();
    if (due >= begin_ && due < end_)
      samples_.Add({due, static_cast<float>((now - due) * 1e3), static_cast<float>((began - due) * 1e3), status, wrong});
    if (status == 0 && now >= begin_ && now < end_) ++ended_;
  }

  // Ends when nothing waits and nothing will be sent, or when it gives up.
  void Poll() {
    const auto step = std::chrono::milliseconds(100);
    while (sending_ || waiting_ > 0) {
      void* tag;
      bool ok;
      const auto next = queue_.AsyncNext(&tag, &ok, std::chrono::system_clock::now() + step);
      if (Now() > end_ + options_.give_up_s) break;
      if (next != grpc::CompletionQueue::GOT_EVENT) continue;
      std::unique_ptr<Call> call(static_cast<Call*>(tag));
      --waiting_;
      const int status = call->status.error_code();
      Record(call->due, call->began, status, status == 0 && IsWrong(options_.expected, call->payload, call->answer));
      if (options_.mode == "closed" && Now() < end_) Start(Now());
    }
    for (int i = 0; i < waiting_; ++i)
      samples_.Add({end_, static_cast<float>(options_.give_up_s * 1e3), 0, kUnanswered, 0});
  }

  void StartStream(int connection) {
    auto stream = std::make_unique<Stream>();
    Prepare(&stream->context);
    stream->call = stubs_[connection]->PrepareCall(&stream->context, options_.method, &queue_);
    stream->call->StartCall(&stream->start);
    streams_.push_back(std::move(stream));
  }

  void WriteNext(Stream* stream) {
    if (stream->writing || stream->closed) return;
    if (Now() >= end_) {
      stream->closed = true;
      stream->call->WritesDone(&stream->done);
    } else if (static_cast<int>(stream->waiting.size()) < options_.in_flight) {
      const size_t payload = started_++ % options_.payloads.size();
      stream->waiting.push_back({payload, Now()});
      stream->writing = true;
      stream->call->Write(options_.payloads[payload], &stream->write);
    }
  }

  void PollStreams() {
    size_t open = streams_.size();
    const auto limit = std::chrono::system_clock::now() +
                       std::chrono::milliseconds(static_cast<int>((end_ - Now() + options_.give_up_s) * 1e3));
    void* tag;
    bool ok;
    while (open > 0 && queue_.AsyncNext(&tag, &ok, limit) == grpc::CompletionQueue::GOT_EVENT) {
      auto* event = static_cast<Stream::Tag*>(tag);
      Stream* stream = event->stream;
      switch (event->kind) {
        case Stream::Tag::kStart:
          stream->call->Read(&stream->answer, &stream->read);
          WriteNext(stream);
          break;
        case Stream::Tag::kWrite:
          stream->writing = false;
          if (ok) WriteNext(stream);
          break;
        case Stream::Tag::kRead:
          if (!ok) {
            stream->closed = true;
            stream->call->Finish(&stream->status, &stream->finish);
            break;
          }
          Answered(stream);
          stream->call->Read(&stream->answer, &stream->read);
          WriteNext(stream);
          break;
        case Stream::Tag::kDone:
          break;
        case Stream::Tag::kFinish:  // what it has not answered failed as it did; an OK end leaves nothing unanswered
          for (const auto& sent : stream->waiting)
            Record(sent.at, sent.at, stream->status.ok() ? kUnanswered : stream->status.error_code(), false);
          stream->waiting.clear();
          --open;
      }
    }
    for (const auto& stream : streams_)
      for (size_t i = 0; i < stream->waiting.size(); ++i) samples_.Add({end_, 0, 0, kUnanswered, 0});
  }

  void Answered(Stream* stream) {
    if (stream->waiting.empty()) {  // more answers than messages
      samples_.Add({Now(), 0, 0, grpc::StatusCode::INTERNAL, 1});
      return;
    }
    const Stream::Sent sent = stream->waiting.front();
    stream->waiting.pop_front();
    Record(sent.at, sent.at, 0, IsWrong(options_.expected, sent.payload, stream->answer));
  }

  Options options_;
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs_;
  std::vector<std::unique_ptr<Stream>> streams_;
  grpc::CompletionQueue queue_;
  Samples samples_;
  std::atomic<int> waiting_{0};
  std::atomic<bool> sending_{false};
  size_t started_ = 0;
  uint64_t ended_ = 0;
  int unsent_ = 0;
  double begin_ = 0, end_ = 0;
};

}  // namespace

int main(int count, char** words) {
  try {
    auto* load = new Load(ReadOptions(count, words));  // never deleted: calls that were given up still refer to it
    load->Run();
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    return 2;
  }
  std::fflush(stdout);
  std::_Exit(0);
}
