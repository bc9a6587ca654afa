"""Run by the interpreter that has tritonclient: reads steps from stdin, does each, writes what came of it to stdout.

Of its own process because tritonclient registers its contract under the same names as ours, and needs another
protobuf. Steps and results are JSON; arrays go as their bytes, so that what is compared is every bit.
"""

from __future__ import annotations

import json
import queue
import sys

import numpy as np
import tritonclient.grpc
import tritonclient.http
from google.protobuf.json_format import MessageToDict
from tritonclient.utils import InferenceServerException

MODULES = {"grpc": tritonclient.grpc, "http": tritonclient.http}


def array(document):
    return np.frombuffer(bytes.fromhex(document["hex"]), document["dtype"]).reshape(document["shape"])


def plain(values):
    if values.dtype == object:
        return {
            "texts": [each.decode() if isinstance(each, bytes) else each for each in values.ravel()],
            "shape": list(values.shape),
        }
    return {"hex": values.tobytes().hex(), "dtype": values.dtype.str, "shape": list(values.shape)}


def document(answer):
    """gRPC's messages as what the HTTP client gives."""
    return answer if isinstance(answer, (dict, list)) else MessageToDict(answer, preserving_proto_field_name=True)


class Client:
    def __init__(self, protocol, url):
        self.protocol = protocol
        self.module = MODULES[protocol]
        self.client = self.module.InferenceServerClient(url)

    def arguments(self, step):
        of_http = {"binary_data": step.get("binary", True)} if self.protocol == "http" else {}
        inputs = []
        for name, tensor in step["inputs"].items():
            given = self.module.InferInput(name, tensor["shape"], tensor["datatype"])
            if "shared_memory" in step:
                given.set_shared_memory(step["shared_memory"], 8)
            else:
                given.set_data_from_numpy(array(tensor), **of_http)
            inputs.append(given)
        arguments = {"model_name": step.get("model", "champion"), "inputs": inputs}
        if "outputs" in step:
            of_output = of_http | ({"class_count": step["class_count"]} if "class_count" in step else {})
            arguments["outputs"] = [self.module.InferRequestedOutput(name, **of_output) for name in step["outputs"]]
        names = ("model_version", "request_id", "priority", "timeout", "sequence_id", "parameters")
        return arguments | {name: step[name] for name in names if name in step}

    def result(self, answer):
        response = document(answer.get_response())
        names = [output["name"] for output in response["outputs"]]
        return {
            "outputs": {name: plain(answer.as_numpy(name)) for name in names},
            "model_name": response["model_name"],
            "model_version": response["model_version"],
            "id": response.get("id", ""),
            "parameters": {
                name: next(iter(value.values())) if isinstance(value, dict) else value
                for name, value in response.get("parameters", {}).items()
            },
        }

    def infer(self, step):
        arguments = self.arguments(step)
        if "compression" in step and self.protocol == "http":
            arguments["request_compression_algorithm"] = step["compression"]
            arguments["response_compression_algorithm"] = step["compression"]
        elif "compression" in step:
            arguments["compression_algorithm"] = step["compression"]
        return self.result(self.client.infer(**arguments))

    def async_infer(self, step):
        """Several at once; results in the order of the requests."""
        if self.protocol == "http":
            pending = [self.client.async_infer(**self.arguments(each)) for each in step["requests"]]
            return [self.result(each.get_result()) for each in pending]
        answers = queue.Queue()
        for at, each in enumerate(step["requests"]):
            self.client.async_infer(
                callback=lambda result, error, at=at: answers.put((at, result, error)), **self.arguments(each)
            )
        found = dict.fromkeys(range(len(step["requests"])))
        for _ in found:
            at, result, error = answers.get(timeout=30)
            if error is not None:
                raise error
            found[at] = self.result(result)
        return list(found.values())

    def stream(self, step):
        answers = queue.Queue()
        self.client.start_stream(callback=lambda result, error: answers.put((result, error)))
        for each in step["requests"]:
            final = {"enable_empty_final_response": True} if step.get("final") else {}
            self.client.async_stream_infer(**self.arguments(each), **final)
        found = [answers.get(timeout=30) for _ in step["requests"]]
        self.client.stop_stream()
        return [{"error": str(error)} if error else self.result(result) for result, error in found]

    def read(self, step):
        """A method that takes texts and answers with a document, a truth value or nothing."""
        answer = getattr(self.client, step["method"])(*step.get("arguments", ()))
        return answer if answer is None or isinstance(answer, bool) else document(answer)


def contract(_step):
    """What tritonclient's own contract says: of each message its fields, of the service its methods."""
    from tritonclient.grpc import model_config_pb2, service_pb2

    fields = {}

    def add(descriptor):
        if descriptor.GetOptions().map_entry:
            return
        fields[descriptor.full_name] = {
            each.name: [each.number, each.type, each.is_repeated] for each in descriptor.fields
        }
        for each in descriptor.nested_types:
            add(each)

    for module in (service_pb2, model_config_pb2):
        for descriptor in module.DESCRIPTOR.message_types_by_name.values():
            add(descriptor)
    methods = {
        each.name: [each.input_type.full_name, each.client_streaming, each.output_type.full_name, each.server_streaming]
        for each in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    }
    datatypes = dict(model_config_pb2.DataType.items())
    return {"fields": fields, "methods": methods, "datatypes": datatypes}


def main():
    job = json.load(sys.stdin)
    client = None if job["protocol"] == "none" else Client(job["protocol"], job["url"])
    results = []
    for step in job["steps"]:
        try:
            results.append(contract(step) if client is None else getattr(client, step["do"])(step))
        except InferenceServerException as error:
            results.append({"error": error.message(), "status": error.status()})
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
