//! The spans of an operation: what it loads, and what it compiles for that.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lighter_trace::{OpenSpan, OperationOutlet, Settings, SpanKind, TraceContext, Tracer};

/// What an operation makes spans with. They are sent when this is dropped.
pub(crate) struct OperationTrace {
    tracer: Tracer,
    outlet: Arc<OperationOutlet>,
    call: TraceContext,
}

impl OperationTrace {
    /// One for the operation of `call`; `None` if nobody wants to know.
    pub(crate) fn begin(settings: &Settings, namespace: &str, call: TraceContext) -> Option<Self> {
        if !call.sampled {
            return None;
        }
        let outlet = Arc::new(OperationOutlet::connect(&settings.socket, namespace).ok()?);
        Some(Self {
            tracer: Tracer::new(settings.sampler, outlet.clone()),
            outlet,
            call,
        })
    }

    /// The loading of a program.
    pub(crate) fn load(&self, container: &str, program: &str) -> Loading<'_> {
        let call = Some(&self.call);
        let mut span = self.tracer.begin("load program", SpanKind::Internal, call);
        span.set("container.id", container);
        span.set("lighter.program", program);
        Loading {
            trace: self,
            span,
            begin: SystemTime::now(),
        }
    }
}

impl Drop for OperationTrace {
    fn drop(&mut self) {
        self.outlet.flush();
    }
}

/// A program is being loaded.
pub(crate) struct Loading<'a> {
    trace: &'a OperationTrace,
    span: OpenSpan,
    begin: SystemTime,
}

impl Loading<'_> {
    /// It was loaded, and compiled before that if this took time, or is none.
    pub(crate) fn done(mut self, compiled: Result<Option<Duration>, &str>) {
        match compiled {
            Ok(compiled) => {
                self.span.set("lighter.cache.hit", compiled.is_none());
                if let Some(took) = compiled {
                    let whole = self.span.context();
                    self.trace.tracer.add("compile", whole, self.begin, took);
                }
            }
            Err(why) => self.span.fail(why),
        }
    }
}
