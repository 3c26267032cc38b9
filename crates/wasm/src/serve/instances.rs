//! Instances of a service: how they are made, how often they are used, when they are given up.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use lighter_core::Count;
use lighter_trace::TraceContext;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use wasmtime::component::GuestTaskId;
use wasmtime::{Engine, Store, StoreContextMut};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, ProxyPre, ShouldAccept, WorkerExpiration, WorkerState, WorkerStatus,
};

use super::request::RequestData;
use super::ticker::{FIRST_TICKS, Ticker, Work};
use crate::ending::{complain, of_error, write_to_stderr};
use crate::run;
use crate::slots::Slots;
use crate::spans::{AtWork, Made};
use crate::state::{Shared, State};

/// Requests for an instance of WASI 0.3, whose guests are made for several: Wasmtime's choice.
const REUSE_3: u32 = 128;
/// Requests that such an instance handles at a time: Wasmtime's choice, too.
const CONCURRENT_3: usize = 16;
/// How long an instance that could be used again waits for a request.
const IDLE: Duration = Duration::from_secs(30);

/// Time between two looks at whether there is memory for an instance.
const MEMORY_INTERVAL: Duration = Duration::from_millis(50);

/// Makes instances.
pub(super) struct Instances {
    name: Arc<str>,
    engine: Engine,
    pre: ProxyPre<State>,
    shared: Shared,
    ticker: Arc<Ticker>,
    slots: Option<Arc<Mutex<Slots>>>,
}

impl Instances {
    pub(super) fn new(
        name: &str,
        engine: Engine,
        pre: ProxyPre<State>,
        shared: Shared,
        ticker: Arc<Ticker>,
        slots: Option<Slots>,
    ) -> Self {
        Self {
            name: name.into(),
            engine,
            pre,
            shared,
            ticker,
            slots: slots.map(|slots| Arc::new(Mutex::new(slots))),
        }
    }

    fn is_preview3(&self) -> bool {
        matches!(self.pre, ProxyPre::P3(_))
    }

    /// One instance, as soon as there is memory for it.
    async fn instance(
        &self,
    ) -> wasmtime::Result<(Store<State>, wasmtime_wasi_http::handler::Proxy)> {
        loop {
            let freed = self.shared.budget.freed();
            let mut store = run::store(&self.engine, &self.shared, true)?;
            let error = match self.pre.instantiate_async(&mut store).await {
                Ok(proxy) => {
                    self.shared.guest.counters.add(Count::Instances, 1);
                    return Ok((store, proxy));
                }
                Err(error) => error,
            };
            self.shared.recorder.failed(&self.name, &mut store, &error);
            let refused = store.data().budget.was_refused();
            drop(store);
            if !refused {
                return Err(error);
            }
            let budget = &self.shared.budget;
            if budget.is_unused() && !budget.is_short_for_connections() {
                return Err(error.context(
                    "the container's memory limit is too low for one instance: raise it",
                ));
            }
            // What connections give up is not told.
            let _ = timeout(MEMORY_INTERVAL, freed).await;
        }
    }
}

impl HandlerState for Instances {
    type StoreData = State;
    type WorkerExpiration = Expiration;
    type WorkerState = Worker;

    async fn instantiate(&self) -> wasmtime::Result<Instance<State, Expiration, Worker>> {
        let work = Arc::new(Mutex::new(Work::new(&self.ticker)));
        set(&work, true);
        let time = self.shared.options.http.request_time;
        let begin = std::time::Instant::now();
        let made = timeout(time, self.instance()).await;
        let (store, proxy) = match made {
            Ok(Ok(made)) => made,
            Ok(Err(error)) => {
                let (_, text) = of_error(&self.name, &error, self.shared.guest.counters);
                write_to_stderr(&text);
                return Err(error);
            }
            Err(_) => {
                let text = format!("no instance of {} could be made within {time:?}", self.name);
                complain(&text);
                return Err(wasmtime::Error::msg(text));
            }
        };
        let expired = Arc::new(AtomicBool::new(false));
        let default = if self.is_preview3() { REUSE_3 } else { 1 };
        Ok(Instance {
            store,
            proxy,
            view: State::http,
            expiration: Expiration {
                request_time: time,
                work: Arc::clone(&work),
                deadline: None,
                expired: Arc::clone(&expired),
            },
            state: Worker {
                name: Arc::clone(&self.name),
                reuse: self.shared.options.http.reuse.unwrap_or(default) as usize,
                at_a_time: if self.is_preview3() { CONCURRENT_3 } else { 1 },
                shared: self.shared.clone(),
                request_time: time,
                made: Mutex::new(Some(Made::since(begin))),
                work,
                expired,
                slots: self.slots.clone(),
            },
        })
    }
}

fn set(work: &Mutex<Work>, busy: bool) {
    work.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .set(busy);
}

/// Gives an instance up that takes too long, whatever it does: this is asked from outside, also
/// while the guest computes.
pub(super) struct Expiration {
    request_time: Duration,
    work: Arc<Mutex<Work>>,
    deadline: Option<(Instant, Pin<Box<Sleep>>)>,
    /// Whether an instance at work was given up.
    expired: Arc<AtomicBool>,
}

impl WorkerExpiration for Expiration {
    fn poll(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        status: WorkerStatus,
        start: std::time::Instant,
    ) -> Poll<()> {
        let this = self.get_mut();
        set(&this.work, status != WorkerStatus::Idle);
        let time = match status {
            WorkerStatus::Idle => IDLE,
            WorkerStatus::Requests | WorkerStatus::PostReturn => this.request_time,
        };
        let deadline = Instant::from_std(start) + time;
        let (known, timer) = this
            .deadline
            .get_or_insert_with(|| (deadline, Box::pin(sleep_until(deadline))));
        if *known != deadline {
            *known = deadline;
            timer.as_mut().reset(deadline);
        }
        let polled = timer.as_mut().poll(context);
        if polled.is_ready() && status != WorkerStatus::Idle {
            this.expired.store(true, Ordering::Relaxed);
        }
        polled
    }
}

/// How one instance is used.
pub(super) struct Worker {
    name: Arc<str>,
    reuse: usize,
    at_a_time: usize,
    shared: Shared,
    request_time: Duration,
    /// When it was made, until its first request, which that is a part of.
    made: Mutex<Option<Made>>,
    work: Arc<Mutex<Work>>,
    expired: Arc<AtomicBool>,
    slots: Option<Arc<Mutex<Slots>>>,
}

impl Worker {
    /// Has what the instance does belong to this request, until that is answered.
    fn traced(
        &self,
        store: &StoreContextMut<'_, State>,
        request: Option<&TraceContext>,
    ) -> Option<AtWork> {
        let (spans, request) = self.shared.spans.as_ref().zip(request)?;
        let made = self
            .made
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(made) = made {
            spans.add("instantiate", request, made);
        }
        Some(store.data().current().begin(request))
    }
}

impl WorkerState for Worker {
    type StoreData = State;
    type RequestData = RequestData;

    fn should_accept_request(&self, at_a_time: usize, total: usize) -> ShouldAccept {
        if total >= self.reuse {
            ShouldAccept::Never
        } else if at_a_time >= self.at_a_time {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        mut store: StoreContextMut<'_, State>,
        request: RequestData,
        _task: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        set(&self.work, true);
        store.set_epoch_deadline(self.shared.recorder.first_ticks().unwrap_or(FIRST_TICKS));
        run::count_fuel(&store, &self.shared);
        if let Some(fuel) = self.shared.options.fuel {
            // The engine counts when there is fuel, as the options agree with each other.
            let _ = store.set_fuel(fuel);
        }
        let at_work = self.traced(&store, request.span.as_ref());
        let permit = request.permit;
        if self.at_a_time == 1 {
            // The instance expires with its only request.
            return Box::pin(async move {
                std::future::pending::<()>().await;
                drop((at_work, permit));
            });
        }
        Box::pin(async move {
            sleep_until(request.deadline).await;
            drop((at_work, permit));
        })
    }

    fn drop(&self, mut store: Store<State>, result: wasmtime::Result<()>) {
        if let Err(error) = &result {
            self.shared.recorder.failed(&self.name, &mut store, error);
        }
        // All that the instance wrote to is still there. Whoever is at it already is enough.
        if let Some(slots) = &self.slots
            && let Ok(mut slots) = slots.try_lock()
        {
            slots.tend();
        }
        run::count_fuel(&store, &self.shared);
        drop(store);
        set(&self.work, false);
        if self.expired.load(Ordering::Relaxed) {
            complain(&format!(
                "an instance of {} was given up: a request took longer than {:?}",
                self.name, self.request_time
            ));
        } else if let Err(error) = result {
            let (_, text) = of_error(&self.name, &error, self.shared.guest.counters);
            write_to_stderr(&text);
        }
    }
}
