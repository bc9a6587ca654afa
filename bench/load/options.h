// The command line of the load generator, and the payloads it sends.
#pragma once

#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <grpcpp/support/byte_buffer.h>

// A number that an answer must hold: a double or a float, at an offset from its start (or, negative, from its end).
struct Expectation {
  bool is_double = true;
  long offset = 0;
  std::vector<double> values;  // one for each payload; empty: answers are not looked at
};

struct Options {
  std::string target, method, mode = "closed", samples;
  std::vector<grpc::ByteBuffer> payloads;
  std::vector<std::pair<std::string, std::string>> metadata;
  Expectation expected;
  int in_flight = 1, connections = 1, deadline_ms = 0, max_waiting = 10000, seed = 1;
  double rate = 100, seconds = 3, warm_up_s = 0.5, give_up_s = 10;
};

inline std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Serialised requests, each after its length (uint32 of this machine).
inline std::vector<grpc::ByteBuffer> ReadPayloads(const std::string& path) {
  const std::string bytes = ReadFile(path);
  std::vector<grpc::ByteBuffer> payloads;
  for (size_t at = 0; at < bytes.size();) {
    uint32_t length;
    std::memcpy(&length, bytes.data() + at, sizeof length);
    grpc::Slice slice(bytes.data() + at + sizeof length, length);
    payloads.emplace_back(&slice, 1);
    at += sizeof length + length;
  }
  if (payloads.empty()) throw std::runtime_error(path + " holds no payload");
  return payloads;
}

// `KIND@OFFSET:FILE`, such as `double@1:FILE`; the file holds one double for each payload.
inline Expectation ReadExpectation(const std::string& text) {
  const size_t at = text.find('@'), colon = text.find(':');
  if (at == std::string::npos || colon == std::string::npos) throw std::runtime_error("--expect KIND@OFFSET:FILE");
  Expectation expected{text.substr(0, at) == "double", std::stol(text.substr(at + 1, colon - at - 1)), {}};
  const std::string bytes = ReadFile(text.substr(colon + 1));
  expected.values.resize(bytes.size() / sizeof(double));
  std::memcpy(expected.values.data(), bytes.data(), expected.values.size() * sizeof(double));
  return expected;
}

inline Options ReadOptions(int count, char** words) {
  Options options;
  for (int i = 1; i + 1 < count; i += 2) {
    const std::string name = words[i], value = words[i + 1];
    if (name == "--target") options.target = value;
    else if (name == "--method") options.method = value;
    else if (name == "--payloads") options.payloads = ReadPayloads(value);
    else if (name == "--expect") options.expected = ReadExpectation(value);
    else if (name == "--mode") options.mode = value;
    else if (name == "--in-flight") options.in_flight = std::stoi(value);
    else if (name == "--connections") options.connections = std::stoi(value);
    else if (name == "--rate") options.rate = std::stod(value);
    else if (name == "--seconds") options.seconds = std::stod(value);
    else if (name == "--warm-up") options.warm_up_s = std::stod(value);
    else if (name == "--give-up") options.give_up_s = std::stod(value);
    else if (name == "--deadline-ms") options.deadline_ms = std::stoi(value);
    else if (name == "--max-waiting") options.max_waiting = std::stoi(value);
    else if (name == "--seed") options.seed = std::stoi(value);
    else if (name == "--samples") options.samples = value;
    else if (name == "--metadata")
      options.metadata.emplace_back(value.substr(0, value.find('=')), value.substr(value.find('=') + 1));
    else throw std::runtime_error("no such option: " + name);
  }
  if (count % 2 == 0) throw std::runtime_error("each option takes a value");
  if (options.target.empty() || options.method.empty() || options.payloads.empty())
    throw std::runtime_error("--target, --method and --payloads are needed");
  if (!options.expected.values.empty() && options.expected.values.size() != options.payloads.size())
    throw std::runtime_error("--expect must hold one number for each payload");
  return options;
}
