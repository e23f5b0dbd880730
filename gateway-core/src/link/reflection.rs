//! Server reflection, so that stock gRPC tools can list and call what a gateway serves.

use std::sync::LazyLock;

use bytes::Bytes;
use gateway_proto::{
    DESCRIPTORS, names,
    reflection::{
        ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
        ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
        server_reflection_request::MessageRequest as Ask,
        server_reflection_response::MessageResponse as Answer,
    },
};
use h2_stream::Code;
use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// One file of the schema: its name, all symbols it declares, and its encoding.
struct File {
    name: String,
    symbols: Vec<String>,
    encoded: Bytes,
}

static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
    // The set was written by our own build; an unreadable one would show as an empty list in every test of reflection.
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default();
    set.file.iter().map(File::new).collect()
});

/// The answer to one request of a reflection stream.
pub(super) fn answer(request: ServerReflectionRequest) -> ServerReflectionResponse {
    let answer = match &request.message_request {
        Some(Ask::ListServices(_)) => list(),
        Some(Ask::FileByFilename(name)) => file(|file| file.name == *name, name),
        Some(Ask::FileContainingSymbol(symbol)) => {
            let symbol = symbol.trim_start_matches('.');
            file(
                |file| file.symbols.iter().any(|known| known == symbol),
                symbol,
            )
        }
        Some(Ask::AllExtensionNumbersOfType(base)) => {
            Answer::AllExtensionNumbersResponse(ExtensionNumberResponse {
                base_type_name: base.clone(),
                extension_number: Vec::new(),
            })
        }
        Some(Ask::FileContainingExtension(extension)) => missing(&extension.containing_type),
        None => error(Code::InvalidArgument, "an empty request".to_owned()),
    };
    ServerReflectionResponse {
        valid_host: request.host.clone(),
        original_request: Some(request),
        message_response: Some(answer),
    }
}

fn list() -> Answer {
    let services = [
        names::GATEWAY_SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ];
    let service = services.map(|name| ServiceResponse { name: name.into() });
    Answer::ListServicesResponse(ListServiceResponse {
        service: service.to_vec(),
    })
}

fn file(wanted: impl Fn(&File) -> bool, name: &str) -> Answer {
    match FILES.iter().find(|file| wanted(file)) {
        Some(file) => Answer::FileDescriptorResponse(FileDescriptorResponse {
            file_descriptor_proto: vec![file.encoded.clone()],
        }),
        None => missing(name),
    }
}

fn missing(name: &str) -> Answer {
    error(Code::NotFound, format!("nothing here is called {name:?}"))
}

fn error(code: Code, error_message: String) -> Answer {
    Answer::ErrorResponse(ErrorResponse {
        error_code: code as i32,
        error_message,
    })
}

impl File {
    fn new(file: &FileDescriptorProto) -> Self {
        let package = file.package();
        let mut symbols = Vec::new();
        for service in &file.service {
            let name = format!("{package}.{}", service.name());
            let methods = service.method.iter();
            symbols.extend(methods.map(|method| format!("{name}.{}", method.name())));
            symbols.push(name);
        }
        for message in &file.message_type {
            add_message(package, message, &mut symbols);
        }
        let enums = file.enum_type.iter();
        symbols.extend(enums.map(|kind| format!("{package}.{}", kind.name())));
        Self {
            name: file.name().to_owned(),
            symbols,
            encoded: file.encode_to_vec().into(),
        }
    }
}

fn add_message(scope: &str, message: &DescriptorProto, symbols: &mut Vec<String>) {
    let name = format!("{scope}.{}", message.name());
    for nested in &message.nested_type {
        add_message(&name, nested, symbols);
    }
    let enums = message.enum_type.iter();
    symbols.extend(enums.map(|kind| format!("{name}.{}", kind.name())));
    symbols.push(name);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(ask: Ask) -> Answer {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(ask),
        };
        answer(request).message_response.unwrap()
    }

    #[test]
    fn every_listed_service_has_a_file() {
        let Answer::ListServicesResponse(list) = ask(Ask::ListServices(String::new())) else {
            panic!("not a list");
        };
        assert_eq!(list.service.len(), 4);
        for service in list.service {
            let answer = ask(Ask::FileContainingSymbol(service.name.clone()));
            assert!(
                matches!(answer, Answer::FileDescriptorResponse(_)),
                "{}",
                service.name
            );
        }
    }

    #[test]
    fn nested_messages_and_methods_are_symbols() {
        for symbol in [
            "ringway.v1.Snapshot.Chunk",
            "ringway.v1.GatewayService.Push",
            "ringway.v1.CloseCode",
        ] {
            let answer = ask(Ask::FileContainingSymbol(symbol.into()));
            assert!(
                matches!(answer, Answer::FileDescriptorResponse(_)),
                "{symbol}"
            );
        }
    }

    #[test]
    fn unknown_names_are_not_found() {
        let answer = ask(Ask::FileByFilename("no.proto".into()));
        assert!(matches!(answer, Answer::ErrorResponse(error) if error.error_code == 5));
    }
}
