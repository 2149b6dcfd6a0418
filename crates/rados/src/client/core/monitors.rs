//! What the tasks of a client instance and the monitors have to do with each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use ceph_codec::{EntityAddr, Epoch, PoolId};
use ceph_msgr::Message;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::Errno;
use crate::error::OpError;
use crate::messages::mon::CommandAck;
use crate::messages::pool_op::{PoolOpReply, SnapOp};
use crate::monc::{MonEvent, MonSessionError};
use crate::net::{LinkError, Outbox, Proof};

use super::super::settings::{Settings, log_changes};
use super::{CommandSender, Core, PoolOpSender, State};

/// Why a session with a monitor is of no use any more. A new one brings new tickets.
#[derive(Debug, Error)]
pub(crate) enum MonError {
    #[error(transparent)]
    Session(#[from] MonSessionError),
    #[error("the monitor did not renew the tickets")]
    Renewal(#[from] cephx::AuthError),
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl MonError {
    /// Whether the monitor did not answer, rather than go away.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(
            self,
            Self::Session(MonSessionError::Mute | MonSessionError::NoTickets(_))
                | Self::Link(LinkError::Silent)
        )
    }
}

impl Core {
    /// What to show to a monitor; `accepted` is shared by the attempts of which one is to win.
    pub(crate) fn mon_proof<'a>(&'a self, accepted: &'a AtomicBool) -> Proof<'a> {
        match &self.auth {
            Some(auth) => Proof::key(auth, accepted),
            None => {
                let payload = cephx::none::mon_request(&self.options.name, self.dialer.global_id());
                Proof::Nothing { payload }
            }
        }
    }

    /// A session with a monitor is open; what is to be sent goes through `outbox`.
    pub(crate) fn mon_opened(&self, addr: EntityAddr, outbox: Arc<Outbox>) {
        let mut state = self.state.lock();
        state.mon_outbox = Some(outbox);
        state.monc.session_opened(addr, self.dialer.now());
        state.flush_mon();
        self.tickets_renewed.notify_waiters();
    }

    pub(crate) fn mon_closed(&self) {
        let mut state = self.state.lock();
        state.mon_outbox = None;
        state.monc.session_closed();
        if let Some(auth) = &self.auth {
            auth.lock().mon_closed();
        }
    }

    /// A message of the monitor.
    ///
    /// # Errors
    /// [`MonError`]; the session has to end then.
    pub(crate) fn mon_message(self: &Arc<Self>, message: Message) -> Result<(), MonError> {
        let outcome = self.state.lock().monc.handle_message(message);
        loop {
            let event = self.state.lock().monc.poll_event();
            match event {
                Some(event) => self.mon_event(event)?,
                None => return Ok(outcome?),
            }
        }
    }

    fn mon_event(self: &Arc<Self>, event: MonEvent<CommandSender, PoolOpSender>) -> Result<(), MonError> {
        match event {
            MonEvent::OsdMaps(maps) => self.new_maps(&maps),
            MonEvent::Config(values) => self.new_config(values),
            MonEvent::AuthReply(reply) => {
                if let Some(auth) = &self.auth {
                    auth.lock().renewed(reply.result, &reply.payload, self.dialer.ticket_now())?;
                    tracing::debug!("tickets renewed");
                    self.tickets_renewed.notify_waiters();
                }
            }
            MonEvent::TicketsRevoked => {
                if let Some(auth) = &self.auth {
                    auth.lock().invalidate_services();
                    self.tickets_wanted.notify_one();
                }
            }
            MonEvent::Command { completion, ack, output } => {
                let _ = completion.send((ack, output));
            }
            MonEvent::PoolOp { completion, reply } => {
                let _ = completion.send(reply);
            }
            MonEvent::NewestEpoch { question, epoch } => self.newest_epoch_known(question, epoch),
        }
        Ok(())
    }

    /// How often to ask the monitor for a sign of life, and how long it may be silent.
    pub(crate) fn pings(&self) -> (Duration, Duration) {
        let settings = self.settings.borrow();
        (settings.ping_interval, settings.ping_timeout.unwrap_or(Duration::MAX))
    }

    /// # Errors
    /// [`MonError`] if the monitor is of no use, however alive it is; the session has to end then.
    pub(crate) fn check_monitor(&self) -> Result<(), MonError> {
        Ok(self.state.lock().monc.check_answers(self.dialer.now())?)
    }

    /// Asks the monitor for tickets that are due.
    pub(crate) fn renew_tickets(&self) {
        let Some(auth) = &self.auth else { return };
        let renewal = auth.lock().renew(self.dialer.ticket_now(), &mut |buf| self.options.system.random(buf));
        if let cephx::Renewal::Request(payload) = renewal {
            let mut state = self.state.lock();
            state.monc.renew_tickets(cephx::METHOD, &payload, self.dialer.now());
            state.flush_mon();
        }
    }

    /// The monitors' configuration is here, or has changed.
    fn new_config(self: &Arc<Self>, values: BTreeMap<String, String>) {
        let mut state = self.state.lock();
        if state.mon_config == values {
            return;
        }
        log_changes(&self.options.config, &state.mon_config, &values);
        let pairs = values.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let merged = self.options.config.with_monitors(pairs);
        let settings = Settings::merged(&self.options, &merged);
        state.mon_config = values;
        if let Some(objecter) = &mut state.objecter {
            objecter.set_limits(settings.limits);
            objecter.set_op_timeout(settings.op_timeout);
        }
        self.carry_out(&mut state);
        drop(state);
        self.settings.send_replace(settings);
        self.config.send_replace(Arc::new(merged));
    }

    /// The newest epoch that the monitors have.
    pub(crate) async fn newest_epoch(&self) -> Result<Epoch, OpError> {
        self.ask_monitors(|state, sender, now| {
            let question = state.monc.request_newest_epoch(now);
            state.newest_epoch_waiters.insert(question, sender);
            question
        })
        .await
    }

    fn newest_epoch_known(self: &Arc<Self>, question: u64, epoch: Epoch) {
        let mut state = self.state.lock();
        let later = state.newest_epoch_waiters.split_off(&(question + 1));
        for waiter in std::mem::replace(&mut state.newest_epoch_waiters, later).into_values() {
            let _ = waiter.send(epoch);
        }
        let its_own = state.objecters_question.take_if(|asked| *asked <= question).is_some();
        if let Some(objecter) = state.objecter.as_mut().filter(|_| its_own) {
            objecter.newest_epoch(epoch);
        }
        let here = state.objecter.as_ref().map_or(Epoch(0), |objecter| objecter.map().epoch());
        if here > Epoch(0) && epoch > here {
            state.monc.request_osdmap(here.next());
        }
        self.carry_out(&mut state);
    }

    /// Sends a command to the monitors.
    ///
    /// # Errors
    /// [`OpError::Shutdown`], [`OpError::TimedOut`]
    pub(crate) async fn command(&self, json: String, input: Bytes) -> Result<(CommandAck, Bytes), OpError> {
        self.ask_monitors(|state, sender, now| state.monc.command(json, input, sender, now)).await
    }

    /// Changes the snapshots of a pool, and waits until the OSDMap here shows it.
    ///
    /// # Errors
    /// [`OpError::Shutdown`], [`OpError::TimedOut`], or why the monitors refused.
    pub(crate) async fn pool_op(&self, pool: PoolId, op: SnapOp) -> Result<PoolOpReply, OpError> {
        let reply = self.ask_monitors(|state, sender, now| state.monc.pool_op(pool, op, sender, now)).await?;
        if reply.result < 0 {
            return Err(OpError::Errno(Errno(reply.result.saturating_neg())));
        }
        self.wait_for_map(reply.epoch).await?;
        Ok(reply)
    }

    /// Waits until the OSDMap here is as new as `wanted`.
    ///
    /// # Errors
    /// [`OpError::Shutdown`]
    pub(crate) async fn wait_for_map(&self, wanted: Epoch) -> Result<Epoch, OpError> {
        let mut epoch = self.epoch.subscribe();
        let mut closed = self.closed.subscribe();
        tokio::select! {
            biased;
            reached = epoch.wait_for(|epoch| *epoch >= wanted) => {
                reached.map(|epoch| *epoch).map_err(|_| OpError::Shutdown)
            }
            _ = closed.wait_for(|closed| *closed) => Err(OpError::Shutdown),
        }
    }

    /// Asks the monitors something and waits for the answer; the question is withdrawn when the future is
    /// dropped. `ask` returns its number.
    async fn ask_monitors<T>(
        &self,
        ask: impl FnOnce(&mut State, oneshot::Sender<T>, Duration) -> u64,
    ) -> Result<T, OpError> {
        let (sender, receiver) = oneshot::channel();
        let question = {
            let mut state = self.state.lock();
            // Looked at under the lock, as in `end`: nobody would answer what comes later.
            if *self.closed.borrow() {
                return Err(OpError::Shutdown);
            }
            let question = ask(&mut state, sender, self.dialer.now());
            state.flush_mon();
            question
        };
        let _unasked = Unasked { core: self, question };
        let limit = self.settings.borrow().mon_op_timeout;
        let answer = match limit {
            Some(limit) => timeout(limit, receiver).await.map_err(|_| OpError::TimedOut)?,
            None => receiver.await,
        };
        answer.map_err(|_| OpError::Shutdown)
    }
}

/// Withdraws a question to the monitors when nobody waits for its answer any more.
struct Unasked<'a> {
    core: &'a Core,
    question: u64,
}

impl Drop for Unasked<'_> {
    fn drop(&mut self) {
        let mut state = self.core.state.lock();
        state.monc.cancel(self.question);
        state.newest_epoch_waiters.remove(&self.question);
    }
}
