// What a load run saw: one sample for each call, and what is said of them.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <map>
#include <string>
#include <vector>

// Seconds of CLOCK_MONOTONIC: the same clock as Python's time.monotonic().
inline double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Statuses of our own, beyond gRPC's 0 to 16.
constexpr int kUnsent = 17;      // open loop: too many calls were already waiting
constexpr int kUnanswered = 18;  // still waiting when the run gave up

inline std::string StatusName(int status) {
  static const char* const kNames[] = {
      "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
      "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
      "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED", "UNSENT", "UNANSWERED"};
  return status >= 0 && status <= kUnanswered ? kNames[status] : std::to_string(status);
}

struct Sample {
  double due_s;      // when the call was to begin, of the monotonic clock
  float latency_ms;  // from then to its end
  float late_ms;     // from then to when it did begin: the generator's own fault
  int32_t status;
  int32_t wrong;  // 1: OK, but not the answer to this call's payload
};

class Samples {
 public:
  void Add(const Sample& sample) { samples_.push_back(sample); }

  // Writes the samples as they lie in memory.
  void Dump(const std::string& path) const {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(samples_.data()), samples_.size() * sizeof(Sample));
  }

  // Prints one JSON object. `ended` counts the OK calls that ended within the `seconds` that were measured.
  void Print(double begin, double seconds, uint64_t ended) const {
    std::map<int, std::vector<float>> by_status;
    std::vector<float> late, all;
    uint64_t wrong = 0;
    for (const Sample& sample : samples_) {
      by_status[sample.status].push_back(sample.latency_ms);
      all.push_back(sample.latency_ms);
      late.push_back(sample.late_ms);
      wrong += sample.wrong;
    }
    std::printf("{\"begin_s\": %.6f, \"seconds\": %.3f, \"offered_per_s\": %.2f, \"ok_per_s\": %.2f, \"wrong\": %lu, ",
                begin, seconds, samples_.size() / seconds, ended / seconds, static_cast<unsigned long>(wrong));
    std::printf("\"all\": ");
    PrintLatency(&all);
    std::printf(", \"late\": ");
    PrintLatency(&late);
    std::printf(", \"statuses\": {");
    const char* separator = "";
    for (auto& [status, latencies] : by_status) {
      std::printf("%s\"%s\": ", separator, StatusName(status).c_str());
      PrintLatency(&latencies);
      separator = ", ";
    }
    std::printf("}}\n");
  }

 private:
  static void PrintLatency(std::vector<float>* values) {
    std::sort(values->begin(), values->end());
    auto at = [values](double share) {
      if (values->empty()) return 0.0f;
      return (*values)[std::min<size_t>(values->size() - 1, static_cast<size_t>(std::ceil(share * values->size())) - 1)];
    };
    std::printf("{\"count\": %zu, \"p50_ms\": %.4f, \"p90_ms\": %.4f, \"p99_ms\": %.4f, \"p999_ms\": %.4f, \"max_ms\": %.4f}",
                values->size(), at(0.5), at(0.9), at(0.99), at(0.999), values->empty() ? 0.0f : values->back());
  }

  std::vector<Sample> samples_;
};
