// The floor of the transport: a C++ gRPC server that answers a call with its request, and does nothing else.
//
//   grpc_echo HOST:PORT /package.Service/Method
#include <iostream>
#include <string>

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/byte_buffer.h>
#include <grpcpp/impl/codegen/client_callback.h>
#include <grpcpp/impl/codegen/method_handler.h>
#include <grpcpp/impl/codegen/server_callback_handlers.h>

namespace {

// What the code generator makes of a unary method with raw callbacks, without a .proto.
class Echo : public grpc::Service {
 public:
  explicit Echo(const std::string& method) : method_(method) {
    AddMethod(new grpc::internal::RpcServiceMethod(method_.c_str(), grpc::internal::RpcMethod::NORMAL_RPC, nullptr));
    MarkMethodRawCallback(
        0, new grpc::internal::CallbackUnaryHandler<grpc::ByteBuffer, grpc::ByteBuffer>(
               [](grpc::CallbackServerContext* context, const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
                 auto* reactor = context->DefaultReactor();
                 if (request->Valid()) {
                   *response = *request;
                   reactor->Finish(grpc::Status::OK);
                 } else {  // the client went away in the middle of it
                   reactor->Finish({grpc::StatusCode::CANCELLED, "no request"});
                 }
                 return reactor;
               }));
  }

 private:
  const std::string method_;
};

}  // namespace

int main(int count, char** words) {
  if (count != 3) {
    std::cerr << "usage: grpc_echo HOST:PORT /package.Service/Method" << std::endl;
    return 2;
  }
  Echo echo(words[2]);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(words[1], grpc::InsecureServerCredentials());
  builder.RegisterService(&echo);
  auto server = builder.BuildAndStart();
  if (!server) return 1;
  server->Wait();
}
